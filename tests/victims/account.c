/* Gets resident memory of each kind that an account tells apart, so much before the go byte and so much after
 * it. Whole pages are touched, and no huge ones. What the C library maps on its own for a thread is its own. */
#include "victim.h"
#include <pthread.h>
#include <sys/mman.h>

enum {
    PAGE = 4096,
    BLOCK = 1000,
    OLD_BLOCKS = 3000,
    NEW_BLOCKS = 2000,
    LARGE = 8 << 20,
    LARGE_PAGES = 512,
    MAPPED_PAGES = 768,
    SHARED_PAGES = 256,
    DATA_PAGES = 16,
    STACK_PAGES = 20,
    OLD_THREADS = 4,
    NEW_THREADS = 3,
};
static struct site small = {.frames = "fill,main"};
static struct site large = {.frames = "main"};
static pthread_barrier_t worked;

/* Not zero, so that it is in the file. */
static char data[DATA_PAGES * PAGE] __attribute__((aligned(4096))) = {1};

static void touch(char *at, size_t pages) {
    for (size_t i = 0; i < pages; i++) ((volatile char *)at)[i * PAGE] = 1;
}

FRAME static void *thread(void *nothing) {
    char stack[STACK_PAGES * PAGE];
    touch(stack, STACK_PAGES);
    pthread_barrier_wait(&worked);
    for (;;) pause();
    return nothing;
}

static void start(int threads) {
    pthread_t id;
    pthread_barrier_init(&worked, NULL, (unsigned)threads + 1);
    for (int i = 0; i < threads; i++)
        if (pthread_create(&id, NULL, thread, NULL)) die("pthread_create failed");
    pthread_barrier_wait(&worked);
}

static void map(size_t pages, int flags) {
    char *at = mmap(NULL, 2 * pages * PAGE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | flags, -1, 0);
    if (at == MAP_FAILED) die("mmap failed");
    madvise(at, 2 * pages * PAGE, MADV_NOHUGEPAGE);
    touch(at, pages);
}

FRAME static void *fill(void) {
    char *block = malloc(BLOCK);
    if (block) memset(block, 1, BLOCK);
    return block;
}

int main(void) {
    for (int i = 0; i < OLD_BLOCKS; i++)
        if (!fill()) die("the victim's allocation failed");
    start(OLD_THREADS);
    ready();
    for (int i = 0; i < NEW_BLOCKS; i++) keep(&small, fill(), BLOCK);
    char *block = malloc(LARGE);
    keep(&large, block, LARGE);
    madvise((char *)(((uintptr_t)block + PAGE) & -(uintptr_t)PAGE), LARGE - PAGE, MADV_NOHUGEPAGE);
    touch(block, LARGE_PAGES);
    map(MAPPED_PAGES, MAP_PRIVATE);
    map(SHARED_PAGES, MAP_SHARED);
    touch(data, DATA_PAGES);
    start(NEW_THREADS);
    return finish("account", &small, &large, NULL);
}

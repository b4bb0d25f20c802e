/* Maps memory in every way that a stack can be told of, and unmaps some. In the ledger are bytes of whole pages,
 * and the system calls of which something is left. Blocks are in it, too: what malloc maps for them is not the
 * program's, nor that of the stacks of the threads, whose size is not ours to know. */
#include "victim.h"
#include <pthread.h>
#include <sys/mman.h>

enum { PAGE = 4096, THREADS = 3, BLOCK = 1 << 20 };
static struct site part = {.frames = "leak_part,main"};
static struct site moved = {.frames = "map_few,main"};
static struct site grown = {.frames = "grow,main"};
static struct site under = {.frames = "map_under,main"};
static struct site over = {.frames = "map_over,main"};
static struct site heap = {.frames = "grow_heap,main"};
static struct site blocks = {.frames = "take_blocks,main"};
static pthread_barrier_t end;

static char *map(char *at, size_t pages, int fixed) {
    char *got = mmap(at, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0);
    if (got == MAP_FAILED) die("mmap failed");
    return got;
}

static void left(struct site *site, size_t pages) { stays(site, pages * PAGE); }

FRAME static void leak_part(void) {
    char *at = map(NULL, 10, 0);
    munmap(at + 2 * PAGE, 3 * PAGE);
    left(&part, 7);
}

FRAME static void leak_nothing(void) {
    char *at = map(NULL, 50, 0);
    char *next = map(at + 50 * PAGE, 5, 0);
    munmap(at, 50 * PAGE);
    munmap(next, 5 * PAGE);
}

/* Mapped yet, but memory no more; and what madvise takes for something else, or refuses. */
FRAME static void give_back(char *at) {
    if (madvise(at, 2 * PAGE, MADV_DONTNEED) || madvise(at + PAGE, PAGE + 1, MADV_FREE)) die("madvise failed");
    madvise(at, 3 * PAGE, MADV_SEQUENTIAL);
    if (!madvise(at + 1, 3 * PAGE, MADV_DONTNEED)) die("madvise took half a page");
}

FRAME static char *map_few(void) { return map(NULL, 4, 0); }
FRAME static char *map_under(void) { return map(NULL, 8, 0); }
FRAME static void map_over(char *at) { map(at, 3, MAP_FIXED); }

FRAME static void grow(char *at) {
    at = mremap(at, 4 * PAGE, 9 * PAGE, MREMAP_MAYMOVE);
    if (at == MAP_FAILED) die("mremap failed");
    /* Half of what was added goes again. */
    if (mremap(at, 9 * PAGE, 7 * PAGE, 0) != at) die("mremap failed");
    left(&moved, 4);
    left(&grown, 3);
}

#ifdef __GLIBC__
FRAME static void grow_heap(void) {
    if (sbrk(60 * PAGE) == (void *)-1) die("sbrk failed");
    left(&heap, 60);
}
#endif

/* The last of them moves, or grows in place. */
FRAME static void take_blocks(void) {
    static void *block;
    for (int i = 0; i < 4; i++) {
        block = malloc(BLOCK);
        keep(&blocks, block, BLOCK);
    }
    block = realloc(block, 3 * BLOCK);
    keep(&blocks, block, 3 * BLOCK);
    gone(BLOCK);
    blocks.bytes -= BLOCK;
    blocks.count--;
    void *twice = malloc(BLOCK);
    got(BLOCK);
    free(twice);
    gone(BLOCK);
}

FRAME static void *thread(void *unused) {
    pthread_barrier_wait(&end);
    return unused;
}

FRAME static void start_threads(pthread_t *threads) {
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, thread, NULL)) die("pthread_create failed");
}

int main(void) {
    pthread_t threads[THREADS];
    pthread_barrier_init(&end, NULL, THREADS + 1);
    char *before = map(NULL, 6, 0);
    ready();
    munmap(before, 2 * PAGE);
    for (int i = 0; i < 5; i++) leak_part();
    leak_nothing();
    give_back(before + 2 * PAGE);
    grow(map_few());
    char *at = map_under();
    map_over(at + 2 * PAGE);
    left(&under, 5);
    left(&over, 3);
#ifdef __GLIBC__
    grow_heap();
#endif
    take_blocks();
    start_threads(threads);
    int result = finish("mapped", &part, &moved, &grown, &under, &over, &heap, &blocks, NULL);
    pthread_barrier_wait(&end);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    return result;
}

/* Gets pages from the kernel in every way that a stack can be told of, in threads from before the go
 * byte and after it, and gives some back. Bytes are of pages; what libc touches is not in the ledger.
 *
 * With the argument `populate` it also gets pages without a fault, with `many` more of those that are
 * touched one by one; with `churn` it first gets many at ever new addresses and gives them back. */
#include "victim.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>

enum { PAGE = 4096, HUGE = 2 << 20, BEFORE = 4, AFTER = 2, OF_THREAD = 64, HUGE_PAGES = 3 };
static struct site first = {.frames = "touch_first,main"};
static struct site second = {.frames = "touch_second,main"};
static struct site again = {.frames = "touch_again,main"};
static struct site slow = {.frames = "touch_slow,main"};
static struct site heap = {.frames = "touch_heap,main"};
static struct site threads = {.frames = "touch_thread,thread"};
static struct site by_read = {.frames = "fill_by_read,main"};
static struct site huge = {.frames = "touch_huge,main"};
static struct site data = {.frames = "touch_data,main"};
static struct site moved = {.frames = "touch_moved,main"};
static struct site freed = {.frames = "touch_freed,main"};
static struct site over = {.frames = "touch_over,main"};
static struct site huge_moved = {.frames = "touch_huge_moved,main"};
static pthread_barrier_t started, worked, finished;

/* Not zero, so that it is in the file. */
static char of_file[16 * PAGE] __attribute__((aligned(4096))) = {1};

static char *map(size_t bytes, int flags) {
    char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | flags, -1, 0);
    if (at == MAP_FAILED) die("mmap failed");
    madvise(at, bytes, MADV_NOHUGEPAGE);
    return at;
}

#define TOUCH(name)                                                                  \
    FRAME static void name(char *at, size_t pages) {                                 \
        for (size_t i = 0; i < pages; i++) ((volatile char *)at)[i * PAGE] = 1;      \
    }
TOUCH(touch_first)
TOUCH(touch_second)
TOUCH(touch_again)
TOUCH(touch_slow)
TOUCH(touch_heap)
TOUCH(touch_thread)
TOUCH(touch_huge)
TOUCH(touch_data)
TOUCH(touch_shared)
TOUCH(touch_moved)
TOUCH(touch_freed)
TOUCH(touch_over)
TOUCH(touch_huge_moved)

/* The kernel takes the faults, in the middle of a system call. */
FRAME static void fill_by_read(char *at, size_t pages) {
    int zeros = open("/dev/zero", O_RDONLY);
    if (zeros < 0 || read(zeros, at, pages * PAGE) != (ssize_t)(pages * PAGE)) die("read failed");
    close(zeros);
}

/* Pages come to another place by mremap, which also makes the mapping larger. */
static char *move(char *from, size_t pages, size_t more) {
    size_t bytes = pages * PAGE, all = bytes + more * PAGE;
    /* A page between the two, and none of them at a place where the other ends. */
    char *to = mmap(NULL, all + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (to == MAP_FAILED) die("mmap failed");
    to = mremap(from, bytes, all, MREMAP_MAYMOVE | MREMAP_FIXED, to + PAGE);
    if (to == MAP_FAILED) die("mremap failed");
    return to;
}

/* A place is never used again. */
FRAME static void churn(void) {
    for (int i = 0; i < 8; i++) {
        char *at = map(2000 * PAGE, MAP_PRIVATE);
        for (size_t page = 0; page < 2000; page++) ((volatile char *)at)[page * PAGE] = 1;
        madvise(at, 2000 * PAGE, MADV_DONTNEED);
        usleep(1500 * 1000);
    }
}

static void count(struct site *site, size_t pages) {
    for (size_t i = 0; i < pages; i++) {
        got(PAGE);
        stays(site, PAGE);
    }
}

FRAME static void *thread(void *is_early) {
    if (is_early) pthread_barrier_wait(&started);
    touch_thread(map(OF_THREAD * PAGE, MAP_PRIVATE), OF_THREAD);
    count(&threads, OF_THREAD);
    pthread_barrier_wait(&worked);
    pthread_barrier_wait(&finished);
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t early[BEFORE], late[AFTER];
    pthread_barrier_init(&started, NULL, BEFORE + 1);
    pthread_barrier_init(&worked, NULL, BEFORE + AFTER + 1);
    pthread_barrier_init(&finished, NULL, BEFORE + AFTER + 1);
    for (int i = 0; i < BEFORE; i++)
        if (pthread_create(&early[i], NULL, thread, &started)) die("pthread_create failed");
    ready();
    /* First: where pages were, nobody could tell them from those. */
    if (argc > 1 && !strcmp(argv[1], "populate")) map(200 * PAGE, MAP_PRIVATE | MAP_POPULATE);
    if (argc > 1 && !strcmp(argv[1], "churn")) churn();
    pthread_barrier_wait(&started);
    for (int i = 0; i < AFTER; i++)
        if (pthread_create(&late[i], NULL, thread, NULL)) die("pthread_create failed");

    /* Before anything is unmapped: a place where small pages were just now is not looked at. */
    char *of_huge = map((HUGE_PAGES + 1) * HUGE, MAP_PRIVATE);
    char *of_huge_moved = map(4 * HUGE, MAP_PRIVATE), *target_of_huge = map(2 * HUGE, MAP_PRIVATE);
    size_t many = argc > 1 && !strcmp(argv[1], "many") ? 64 : 1;
    touch_first(map(many * 1000 * PAGE, MAP_PRIVATE), many * 1000);
    count(&first, many * 1000);

    char *at = map(many * 800 * PAGE, MAP_PRIVATE);
    touch_second(at, many * 800);
    munmap(at, many * 300 * PAGE);
    madvise(at + many * 300 * PAGE, many * 100 * PAGE, MADV_DONTNEED);
    touch_again(at + many * 300 * PAGE, many * 50);
    count(&second, many * 400);
    count(&again, many * 50);

    /* Then all pages are there, as after a fault that brings a huge one. */
    at = map(2 * HUGE, MAP_PRIVATE);
    at += -(uintptr_t)at % HUGE;
    touch_slow(at, HUGE / PAGE - 1);
    usleep(400 * 1000);
    touch_slow(at + HUGE - PAGE, 1);
    count(&slow, HUGE / PAGE);

    uintptr_t end = (uintptr_t)syscall(SYS_brk, 0), aligned = (end + PAGE - 1) / PAGE * PAGE;
    if ((uintptr_t)syscall(SYS_brk, aligned + 60 * PAGE) != aligned + 60 * PAGE) die("brk failed");
    madvise((char *)aligned, 60 * PAGE, MADV_NOHUGEPAGE);
    touch_heap((char *)aligned, 60);
    count(&heap, 60);

    fill_by_read(map(32 * PAGE, MAP_PRIVATE), 32);
    count(&by_read, 32);

    at = of_huge + -(uintptr_t)of_huge % HUGE;
    madvise(at, HUGE_PAGES * HUGE, MADV_HUGEPAGE);
    touch_huge(at, HUGE_PAGES * HUGE / PAGE);
    count(&huge, HUGE_PAGES * HUGE / PAGE);

    touch_data(of_file, sizeof of_file / PAGE);
    count(&data, sizeof of_file / PAGE);
    touch_shared(map(40 * PAGE, MAP_SHARED), 40);

    /* Moved twice, the second time only in part; then some go, some are replaced, and what is at the first
     * place is of another stack. */
    char *place = map(many * 500 * PAGE, MAP_PRIVATE);
    touch_moved(place, many * 500);
    at = move(place, many * 500, many * 100);
    touch_over(at + many * 500 * PAGE, many * 100);
    char *middle = move(at + many * 200 * PAGE, many * 200, 0);
    munmap(middle, many * 50 * PAGE);
    madvise(middle + many * 100 * PAGE, many * 100 * PAGE, MADV_DONTNEED);
    touch_over(middle + many * 100 * PAGE, many * 60);
    if (mmap(place, many * 80 * PAGE, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != place)
        die("mmap failed");
    madvise(place, many * 80 * PAGE, MADV_NOHUGEPAGE);
    touch_freed(place, many * 80);
    count(&moved, many * 350);
    count(&over, many * 160);
    count(&freed, many * 80);

    /* Whole ones stay whole if they go to a place like theirs, else they are split; and of one a part goes. */
    at = of_huge_moved + -(uintptr_t)of_huge_moved % HUGE;
    madvise(at, 3 * HUGE, MADV_HUGEPAGE);
    touch_huge_moved(at, 3 * HUGE / PAGE);
    char *like = target_of_huge + -(uintptr_t)target_of_huge % HUGE;
    if (mremap(at, HUGE, HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, like) != like) die("mremap failed");
    move(at + HUGE, HUGE / PAGE, 0);
    move(at + 2 * HUGE + HUGE / 4, HUGE / 2 / PAGE, 0);
    count(&huge_moved, 3 * HUGE / PAGE);

    pthread_barrier_wait(&worked);
    int result = finish("growth", &first, &second, &again, &slow, &heap, &threads, &by_read, &huge, &data,
                        &moved, &freed, &over, &huge_moved, NULL);
    pthread_barrier_wait(&finished);
    for (int i = 0; i < BEFORE; i++) pthread_join(early[i], NULL);
    for (int i = 0; i < AFTER; i++) pthread_join(late[i], NULL);
    return result;
}

/* The body of the victims that show one allocator function: the same function allocates and is
 * reached by two chains of calls, so that a report has to tell stacks apart, not only callers.
 *
 * Before including this a victim defines TAKE, the name of its function
 * `void *TAKE(size_t size)` that calls the allocator function under test, and UNIT, what all
 * sizes are multiples of (alignments ask for it). */
#include "victim.h"

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

static struct site by_left = {.frames = TEXT(TAKE) ",left,work,main"};
static struct site by_right = {.frames = TEXT(TAKE) ",right,work,main"};

FRAME void *TAKE(size_t size);

FRAME static void left(void) {
    for (size_t i = 1; i <= 10; i++) keep(&by_left, TAKE(i * UNIT), i * UNIT);
}

FRAME static void right(void) {
    for (size_t i = 1; i <= 7; i++) keep(&by_right, TAKE(3 * i * UNIT), 3 * i * UNIT);
    /* Large enough for glibc and musl to map it. */
    keep(&by_right, TAKE(4096 * UNIT), 4096 * UNIT);
}

/* Blocks that are freed, some in the order of allocation and some against it. */
FRAME static void pass(void) {
    enum { BLOCKS = 50 };
    static void *blocks[BLOCKS];
    for (size_t i = 0; i < BLOCKS; i++) {
        if (!(blocks[i] = TAKE((i + 1) * UNIT))) die("the victim's allocation failed");
        got((i + 1) * UNIT);
    }
    for (size_t i = 0; i < BLOCKS; i++) {
        size_t j = i % 2 ? i : BLOCKS - 2 - i;
        free(blocks[j]);
        gone((j + 1) * UNIT);
    }
}

FRAME static void work(void) {
    left();
    pass();
    right();
    pass();
}

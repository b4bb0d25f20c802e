/* posix_memalign: the block comes through a pointer, and only when the result is 0. */
#define TAKE leak_posix_memalign
#define UNIT 64
#include "two_chains.h"

FRAME void *leak_posix_memalign(size_t size) {
    void *block;
    return posix_memalign(&block, 64, size) ? NULL : block;
}

static struct site while_failing = {.frames = "leak_posix_memalign,fail,main"};

/* A failing call leaves the pointer alone; here it points to a block that is live already. */
FRAME static void fail(void) {
    volatile size_t bad = 24, everything = PTRDIFF_MAX;
    void *old = leak_posix_memalign(640), *block = old;
    keep(&while_failing, old, 640);
    if (posix_memalign(&block, bad, 100) != EINVAL) die("posix_memalign took a bad alignment");
    if (posix_memalign(&block, 64, everything) != ENOMEM) die("posix_memalign gave everything");
    if (block != old) die("a failing posix_memalign wrote its result");
}

int main(void) {
    ready();
    work();
    fail();
    return finish("posix_memalign", &by_left, &by_right, &while_failing, NULL);
}

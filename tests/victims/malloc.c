/* malloc: also of nothing, and of more than there is. */
#define TAKE leak_malloc
#define UNIT 100
#include "two_chains.h"

static struct site of_nothing = {.frames = "leak_malloc,nothing,main"};

FRAME void *leak_malloc(size_t size) { return malloc(size); }

/* A block of no bytes is a block. */
FRAME static void nothing(void) { keep(&of_nothing, leak_malloc(0), 0); }

FRAME static void too_much(void) {
    if (leak_malloc(PTRDIFF_MAX)) die("malloc of everything worked");
}

int main(void) {
    ready();
    work();
    nothing();
    too_much();
    return finish("malloc", &by_left, &by_right, &of_nothing, NULL);
}

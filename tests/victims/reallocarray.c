/* reallocarray: of nothing as an allocation, as a resize, and failing in both ways. */
#define TAKE leak_reallocarray
#define UNIT 110
#include "two_chains.h"

static struct site resized = {.frames = "resize,grow,main"};
static struct site not_resized = {.frames = "leak_reallocarray,overflow,main"};

FRAME void *leak_reallocarray(size_t size) { return reallocarray(NULL, size / 11, 11); }

FRAME static void *resize(void *block, size_t members, size_t size) {
    return reallocarray(block, members, size);
}

FRAME static void grow(void) {
    void *block = leak_reallocarray(220);
    if (!block) die("the victim's allocation failed");
    got(220);
    block = resize(block, 1000, 13);
    gone(220);
    keep(&resized, block, 13000);
}

/* The old block stays what it was. */
FRAME static void overflow(void) {
    volatile size_t half = SIZE_MAX / 2;
    void *block = leak_reallocarray(330);
    keep(&not_resized, block, 330);
    if (resize(block, half, 4)) die("reallocarray of an overflowing product worked");
    if (resize(block, half / 2, 2)) die("reallocarray of everything worked");
}

int main(void) {
    ready();
    work();
    grow();
    overflow();
    return finish("reallocarray", &by_left, &by_right, &resized, &not_resized, NULL);
}

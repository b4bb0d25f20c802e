/* calloc: the size is a product, which may overflow. musl's calloc calls malloc. */
#define TAKE leak_calloc
#define UNIT 105
#include "two_chains.h"

FRAME void *leak_calloc(size_t size) { return calloc(size / 7, 7); }

FRAME static void too_much(void) {
    volatile size_t half = SIZE_MAX / 2;
    if (calloc(half, 4)) die("calloc of an overflowing product worked");
}

int main(void) {
    ready();
    work();
    too_much();
    return finish("calloc", &by_left, &by_right, NULL);
}

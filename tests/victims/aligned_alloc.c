/* aligned_alloc: the size is the second argument. */
#define TAKE leak_aligned_alloc
#define UNIT 64
#include "two_chains.h"
#include <malloc.h>

FRAME void *leak_aligned_alloc(size_t size) { return aligned_alloc(64, size); }

int main(void) {
    ready();
    work();
    return finish("aligned_alloc", &by_left, &by_right, NULL);
}

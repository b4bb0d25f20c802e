/* pvalloc: gives whole pages, but the bytes that count are those requested. musl has none. */
#define TAKE leak_pvalloc
#define UNIT 1000
#include "two_chains.h"
#include <malloc.h>

FRAME void *leak_pvalloc(size_t size) { return pvalloc(size); }

int main(void) {
    ready();
    work();
    return finish("pvalloc", &by_left, &by_right, NULL);
}

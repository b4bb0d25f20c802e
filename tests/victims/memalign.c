/* memalign: glibc hands a small alignment to malloc, a large one not; here it is both. */
#define TAKE leak_memalign
#define UNIT 128
#include "two_chains.h"
#include <malloc.h>

FRAME void *leak_memalign(size_t size) { return memalign(size % 256 ? 8 : 4096, size); }

int main(void) {
    ready();
    work();
    return finish("memalign", &by_left, &by_right, NULL);
}

/* valloc: aligned to a page, the size stays as requested. */
#define TAKE leak_valloc
#define UNIT 1000
#include "two_chains.h"
#include <malloc.h>

FRAME void *leak_valloc(size_t size) { return valloc(size); }

int main(void) {
    ready();
    work();
    return finish("valloc", &by_left, &by_right, NULL);
}

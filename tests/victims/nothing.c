/* The control: allocates and frees a lot by every function that both libcs have, leaks nothing. */
#include "victim.h"
#include <malloc.h>

FRAME static void release(void *block, size_t size) {
    if (!block) die("the victim's allocation failed");
    free(block);
    gone(size);
}

FRAME static void each(size_t size) {
    void *block;
    got(size), release(malloc(size), size);
    got(size), release(calloc(1, size), size);
    got(size), release(aligned_alloc(16, size), size);
    got(size), release(memalign(64, size), size);
    got(size), release(valloc(size), size);
    if (posix_memalign(&block, 32, size)) die("the victim's allocation failed");
    got(size), release(block, size);
    block = malloc(size), got(size);
    block = realloc(block, 2 * size), gone(size), got(2 * size);
    block = reallocarray(block, 3, size), gone(2 * size), got(3 * size);
    release(block, 3 * size);
}

int main(void) {
    ready();
    for (size_t i = 1; i <= 1000; i++) each(i * 16);
    return finish("nothing", NULL);
}

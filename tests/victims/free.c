/* free: of NULL, and of blocks from before the go byte, which a profiler that came later does not
 * know and must not take for blocks of its own. */
#include "victim.h"

enum { BLOCKS = 40 };
static void *before[BLOCKS];
static struct site left_over = {.frames = "leak_malloc,half,main"};

FRAME static void *leak_malloc(size_t size) { return malloc(size); }

FRAME static void release(void *block) { free(block); }

/* Addresses of the old blocks come back as new ones. */
FRAME static void exchange(void) {
    for (int i = 0; i < BLOCKS; i++) {
        release(before[i]);
        add(&ledger.unknown_frees, 1);
        before[i] = leak_malloc(48);
        got(48);
    }
    for (int i = 0; i < BLOCKS; i++) {
        release(before[i]);
        gone(48);
    }
}

FRAME static void half(void) {
    for (int i = 0; i < BLOCKS; i++) {
        void *block = leak_malloc(200);
        if (i % 2) {
            keep(&left_over, block, 200);
        } else {
            got(200);
            release(block);
            gone(200);
        }
    }
}

int main(void) {
    for (int i = 0; i < BLOCKS; i++) before[i] = malloc(48);
    ready();
    exchange();
    half();
    for (int i = 0; i < 10; i++) release(NULL);
    return finish("free", &left_over, NULL);
}

/* Allocator functions that call each other by their public names: only the outermost call counts,
 * with its own size and its own stack. */
#include "own_malloc.h"

static struct site by_malloc = {.frames = "leak_malloc,work,main"};
static struct site by_calloc = {.frames = "leak_calloc,work,main"};
static struct site by_realloc = {.frames = "leak_realloc,work,main"};
static struct site by_aligned = {.frames = "leak_aligned,work,main"};
static struct site by_memalign = {.frames = "leak_memalign,work,main"};
static struct site by_posix = {.frames = "leak_posix,work,main"};
static struct site kept = {.frames = "leak_malloc,refused,work,main"};

FRAME static void *leak_malloc(size_t size) { return sure(malloc(size)); }
FRAME static void *leak_calloc(size_t size) { return sure(calloc(size, 1)); }
FRAME static void *leak_realloc(void *old, size_t size) { return sure(realloc(old, size)); }
FRAME static void *leak_aligned(size_t size) { return sure(aligned_alloc(16, size)); }
FRAME static void *leak_memalign(size_t size) { return sure(memalign(8, size)); }

FRAME static void *leak_posix(size_t size) {
    void *block;
    if (posix_memalign(&block, 16, size)) die("the victim's allocation failed");
    return block;
}

/* The inner call fails, and with it the outer one; the old block stays. */
FRAME static void refused(void) {
    void *block = leak_malloc(90), *out = block;
    keep(&kept, block, 90);
    if (realloc(block, HEAP_BYTES)) die("realloc to everything worked");
    if (calloc(HEAP_BYTES, 2)) die("calloc of everything worked");
    if (posix_memalign(&out, 64, 10) != EINVAL) die("posix_memalign took a bad alignment");
}

FRAME static void give_back(void *block, size_t size, int how) {
    got(size);
    if (how == 0) free(block);
    if (how == 1) free_sized(block, size);
    if (how == 2) free_aligned_sized(block, 16, size);
    gone(size);
}

FRAME static void work(void) {
    for (size_t i = 1; i <= 30; i++) {
        keep(&by_malloc, leak_malloc(i), i);
        keep(&by_calloc, leak_calloc(2 * i), 2 * i);
        void *block = leak_realloc(NULL, i);
        got(i);
        block = leak_realloc(block, 20 * i);
        gone(i);
        keep(&by_realloc, block, 20 * i);
        keep(&by_aligned, leak_aligned(4 * i), 4 * i);
        keep(&by_memalign, leak_memalign(5 * i), 5 * i);
        keep(&by_posix, leak_posix(6 * i), 6 * i);
        give_back(leak_calloc(i), i, 0);
        give_back(leak_aligned(i), i, 1);
        give_back(leak_posix(i), i, 2);
    }
    refused();
}

int main(void) {
    ready();
    work();
    return finish("nested", &by_malloc, &by_calloc, &by_realloc, &by_aligned, &by_memalign,
                  &by_posix, &kept, NULL);
}

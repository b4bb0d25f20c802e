/* realloc: chains that grow and shrink, calls that fail, and the two calls that are an allocation
 * or a free in disguise. A successful call is a free of the old block and a new block. */
#include "victim.h"

static struct site grown = {.frames = "resize,grow,main"};
static struct site shrunk = {.frames = "resize,shrink,main"};
static struct site refused = {.frames = "take,refuse,main"};
static struct site from_null = {.frames = "resize,from_nothing,main"};
static struct site to_zero = {.frames = "resize,to_nothing,main"};
static struct site adopted = {.frames = "resize,adopt,main"};

FRAME static void *take(size_t size) {
    void *block = malloc(size);
    if (!block) die("the victim's allocation failed");
    got(size);
    return block;
}

FRAME static void *resize(void *block, size_t old, size_t size) {
    void *new = realloc(block, size);
    if (new) {
        if (block) gone(old);
        got(size);
    }
    return new;
}

/* Past the size from which glibc and musl map blocks, and moves them by mremap. */
FRAME static void grow(void) {
    size_t size = 10;
    void *block = take(size);
    for (; size < 5000000; size *= 3) block = resize(block, size, size * 3);
    stays(&grown, size);
}

FRAME static void shrink(void) {
    size_t size = 3000000;
    void *block = take(size);
    for (; size > 20; size /= 4) block = resize(block, size, size / 4);
    stays(&shrunk, size);
    block = resize(take(100), 100, 40);
    free(block);
    gone(40);
}

/* The old block stays, with its old size and its old stack. */
FRAME static void refuse(void) {
    for (int i = 0; i < 3; i++) {
        void *block = take(5000);
        if (resize(block, 5000, PTRDIFF_MAX)) die("realloc to everything worked");
        stays(&refused, 5000);
    }
    void *block = take(6000);
    if (resize(block, 6000, PTRDIFF_MAX)) die("realloc to everything worked");
    free(block);
    gone(6000);
}

FRAME static void from_nothing(void) {
    for (size_t size = 1; size < 1000; size *= 3) {
        if (!resize(NULL, 0, size)) die("the victim's allocation failed");
        stays(&from_null, size);
    }
    if (resize(NULL, 0, PTRDIFF_MAX)) die("realloc of everything worked");
}

/* glibc frees and gives NULL, musl gives a block of no bytes. */
FRAME static void to_nothing(void) {
    for (int i = 0; i < 4; i++) {
        if (resize(take(70), 70, 0))
            stays(&to_zero, 0);
        else
            gone(70);
    }
}

/* The old block is from before the go byte, the new one is not. */
FRAME static void adopt(void *block) {
    if (!(block = resize(block, 0, 300))) die("the victim's allocation failed");
    /* `resize` took the old block for one of the ledger. */
    ledger.freed_count -= 1;
    add(&ledger.unknown_frees, 1);
    stays(&adopted, 300);
}

int main(void) {
    void *before = malloc(77);
    ready();
    grow();
    shrink();
    refuse();
    from_nothing();
    to_nothing();
    adopt(before);
    return finish("realloc", &grown, &shrunk, &refused, &from_null, &to_zero, &adopted, NULL);
}

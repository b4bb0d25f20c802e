/* A library that defines malloc and gets its memory from the next one, in chunks of 64 KiB, one of which
 * is taken in the middle of a call of the program's. The chunks are the allocator's, not the
 * program's. Blocks that do not fit are one chunk each, and given back. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { CHUNK = 64 << 10, HEADER = 16 };

static void *(*next_malloc)(size_t size);
static void (*next_free)(void *block);
static char *chunk;
static size_t left;
static volatile int lock;

/* What is asked for before the constructor has run. */
static char first[16 << 10] __attribute__((aligned(16)));

__attribute__((constructor)) static void find(void) {
    if (next_malloc) return;
    next_free = (void (*)(void *))dlsym(RTLD_NEXT, "free");
    next_malloc = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");
    if (next_malloc) return;
    /* musl: nothing comes after what was loaded last. */
    next_free = (void (*)(void *))dlsym(RTLD_DEFAULT, "free");
    next_malloc = (void *(*)(size_t))dlsym(RTLD_DEFAULT, "malloc");
}

static __attribute__((noipa)) char *piece(size_t bytes) {
    if (bytes > left) {
        if (!next_malloc) {
            if (chunk) return NULL;
            chunk = first, left = sizeof first;
        } else {
            chunk = next_malloc(CHUNK), left = chunk ? CHUNK : 0;
        }
        if (bytes > left) return NULL;
    }
    char *block = chunk;
    chunk += bytes, left -= bytes;
    return block;
}

/* Before each block: its size. */
void *malloc(size_t size) {
    if (size > PTRDIFF_MAX - 2 * HEADER) return NULL;
    size_t bytes = (size + 2 * HEADER - 1) / HEADER * HEADER;
    char *block;
    if (bytes > CHUNK) {
        block = next_malloc ? next_malloc(bytes) : NULL;
    } else {
        while (__atomic_exchange_n(&lock, 1, __ATOMIC_SEQ_CST)) continue;
        block = piece(bytes);
        __atomic_store_n(&lock, 0, __ATOMIC_SEQ_CST);
    }
    if (!block) return NULL;
    memcpy(block, &size, sizeof size);
    return block + HEADER;
}

static size_t size_of(void *block) {
    size_t size;
    memcpy(&size, (char *)block - HEADER, sizeof size);
    return size;
}

/* Small ones are never given out again. */
void free(void *block) {
    if (!block) return;
    size_t bytes = (size_of(block) + 2 * HEADER - 1) / HEADER * HEADER;
    if (bytes > CHUNK) next_free((char *)block - HEADER);
}

void *calloc(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) return NULL;
    void *block = malloc(bytes);
    if (block) memset(block, 0, bytes);
    return block;
}

void *realloc(void *old, size_t size) {
    void *block = malloc(size);
    if (!block || !old) return block;
    size_t bytes = size_of(old);
    memcpy(block, old, bytes < size ? bytes : size);
    free(old);
    return block;
}

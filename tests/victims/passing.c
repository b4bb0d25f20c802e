/* A library that defines malloc and passes every request on to the next one, as tools do that are
 * preloaded to watch a program. One call of the program's is two of allocators; it is to be counted
 * once, with the program's bytes. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

/* What dlsym itself needs, before anything is known. */
static char first[4096] __attribute__((aligned(16)));
static size_t first_used;

static void *of_first(size_t size) {
    size_t at = first_used;
    first_used += (size + 15) / 16 * 16;
    return first_used <= sizeof first ? first + at : NULL;
}

static int is_first(void *block) { return (char *)block >= first && (char *)block < first + sizeof first; }

#define NEXT(name, ...)                                                                            \
    static __typeof__(name) *next_##name;                                                          \
    __attribute__((constructor)) static void find_##name(void) {                                   \
        static int finding;                                                                        \
        if (next_##name || finding) return;                                                        \
        finding = 1;                                                                               \
        next_##name = (__typeof__(name) *)dlsym(RTLD_NEXT, #name);                                 \
        finding = 0;                                                                               \
    }

void *malloc(size_t size);
void free(void *block);
void *calloc(size_t count, size_t size);
void *realloc(void *block, size_t size);
int posix_memalign(void **block, size_t alignment, size_t size);
void *aligned_alloc(size_t alignment, size_t size);
void *memalign(size_t alignment, size_t size);
void *valloc(size_t size);

NEXT(malloc)
NEXT(free)
NEXT(calloc)
NEXT(realloc)
NEXT(posix_memalign)
NEXT(aligned_alloc)
NEXT(memalign)
NEXT(valloc)

/* Not in front of the functions that call it: their hull is not all of the allocator's code. */
static volatile unsigned long calls;
static __attribute__((noipa)) void note(void) { calls++; }

void *malloc(size_t size) {
    find_malloc();
    note();
    void *block = next_malloc ? next_malloc(size) : of_first(size);
    note();
    return block;
}

void free(void *block) {
    find_free();
    note();
    if (!is_first(block) && next_free) next_free(block);
    note();
}

void *calloc(size_t count, size_t size) {
    find_calloc();
    note();
    void *block = next_calloc ? next_calloc(count, size) : of_first(count * size);
    note();
    return block;
}

void *realloc(void *block, size_t size) {
    find_realloc();
    note();
    void *moved = next_realloc(block, size);
    note();
    return moved;
}

int posix_memalign(void **block, size_t alignment, size_t size) {
    find_posix_memalign();
    int status = next_posix_memalign(block, alignment, size);
    note();
    return status;
}

void *aligned_alloc(size_t alignment, size_t size) {
    find_aligned_alloc();
    void *block = next_aligned_alloc(alignment, size);
    note();
    return block;
}

void *memalign(size_t alignment, size_t size) {
    find_memalign();
    void *block = next_memalign(alignment, size);
    note();
    return block;
}

void *valloc(size_t size) {
    find_valloc();
    void *block = next_valloc(size);
    note();
    return block;
}

/* An allocator inside the victim's own executable, so that the executable is what has to be
 * probed. Unlike a libc's it may be called again from a signal handler in the middle of a call:
 * it takes no locks. Its functions call each other by their public names, with other sizes than
 * they were asked for, so that whoever counts more than the outermost call counts wrong.
 *
 * It never tries to be fast or thrifty: slots of one size under a bitmap, and what does not fit
 * comes from a heap that only grows. */
#include "victim.h"

enum { SLOTS = 16384, SLOT_BYTES = 512, HEAP_BYTES = 64 << 20, HEADER = 16 };
static char slots[SLOTS][SLOT_BYTES] __attribute__((aligned(64)));
static char heap[HEAP_BYTES] __attribute__((aligned(64)));
static uint64_t used[SLOTS / 64];
static uint64_t heap_used;

/* Called in the middle of a call, before it takes or gives back anything; may leave by longjmp. */
static void (*volatile in_the_middle)(void);

FRAME static void middle(void) {
    if (in_the_middle) in_the_middle();
}

/* The request's size stands before the block. Gives NULL when nothing fits. */
static char *place(size_t size) {
    if (size <= SLOT_BYTES - HEADER) {
        for (int word = 0; word < SLOTS / 64; word++) {
            uint64_t old = __atomic_load_n(&used[word], __ATOMIC_SEQ_CST);
            while (~old) {
                int bit = __builtin_ctzll(~old);
                if (__atomic_compare_exchange_n(&used[word], &old, old | 1ull << bit, 0,
                                                __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
                    return slots[word * 64 + bit] + HEADER;
            }
        }
    }
    if (size > HEAP_BYTES) return NULL;
    uint64_t bytes = (size + 2 * HEADER - 1) / HEADER * HEADER;
    uint64_t at = __atomic_fetch_add(&heap_used, bytes, __ATOMIC_SEQ_CST);
    if (at + bytes > HEAP_BYTES) return NULL;
    return heap + at + HEADER;
}

FRAME void *malloc(size_t size) {
    middle();
    char *block = place(size);
    if (block) memcpy(block - HEADER, &size, sizeof size);
    return block;
}

FRAME void free(void *block) {
    middle();
    size_t slot = ((char *)block - slots[0]) / SLOT_BYTES;
    if ((char *)block < slots[0] || slot >= SLOTS) return;
    __atomic_fetch_and(&used[slot / 64], ~(1ull << slot % 64), __ATOMIC_SEQ_CST);
}

FRAME void *calloc(size_t members, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(members, size, &bytes)) return NULL;
    char *block = malloc(bytes + HEADER);
    for (size_t i = 0; block && i < bytes; i++) block[i] = 0;
    return block;
}

FRAME void *realloc(void *old, size_t size) {
    char *block = malloc(size + HEADER);
    if (!block || !old) return block;
    size_t old_size;
    memcpy(&old_size, (char *)old - HEADER, sizeof old_size);
    for (size_t i = 0; i < size && i < old_size; i++) block[i] = ((char *)old)[i];
    free(old);
    return block;
}

/* Slots and the heap are aligned to no more than a header. */
FRAME void *aligned_alloc(size_t alignment, size_t size) {
    return alignment > HEADER ? NULL : malloc(size + HEADER);
}

FRAME void *memalign(size_t alignment, size_t size) { return aligned_alloc(alignment, size); }

FRAME int posix_memalign(void **result, size_t alignment, size_t size) {
    void *block = aligned_alloc(alignment, size);
    if (!block) return alignment > HEADER ? EINVAL : ENOMEM;
    *result = block;
    return 0;
}

/* C23; a libc that has them is newer than most machines. */
FRAME void free_sized(void *block, size_t size) {
    (void)size;
    free(block);
}

FRAME void free_aligned_sized(void *block, size_t alignment, size_t size) {
    (void)alignment, (void)size;
    free(block);
}

HELPER void *sure(void *block) {
    if (!block) die("the victim's allocation failed");
    return block;
}

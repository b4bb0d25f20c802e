/* Its live bytes stay the same, also those of each stack, while what it has from the kernel climbs. At first it
 * has large blocks. In each round it allocates blocks of a size that it has not used before and frees all but a
 * few of them: every sixteenth, and a small one behind each. As many bytes of the large ones go. What is free then
 * cannot serve the next round: the holes are too small (glibc), and the groups they are in are not empty (musl). */
#include "victim.h"
#include <time.h>

enum { ROUNDS = 20, ROUND_BYTES = 8 << 20, LARGE = 256 << 10, SMALL = 24, PART = 16 };
enum { LARGES = 160, MOST = ROUND_BYTES / 64 };
static struct site pinned = {.frames = "pin,main"};
static char *bursts[MOST], *larges[LARGES];
static int larges_left;
static size_t owed;

/* Sizes grow by a quarter, so that no allocator has two of them in one class. Round 0 is that of the large ones. */
static size_t size_of(int round) {
    if (round == 0) return LARGE;
    size_t size = 64;
    while (--round > 0) size += size / 4;
    return size;
}

static char *touched(char *block, size_t bytes) {
    if (!block) die("the victim's allocation failed");
    memset(block, 1, bytes);
    got(bytes);
    return block;
}

FRAME static char *pin(size_t bytes) {
    stays(&pinned, bytes);
    return touched(malloc(bytes), bytes);
}

FRAME static char *burst(size_t bytes) { return touched(malloc(bytes), bytes); }

static void release(char *block, size_t bytes) {
    gone(bytes);
    free(block);
}

/* As many bytes of the large blocks go, to within one. */
static void pay(size_t bytes) {
    owed += bytes;
    for (; owed >= LARGE && larges_left > 0; owed -= LARGE) {
        release(larges[--larges_left], LARGE);
        add(&pinned.bytes, -(uint64_t)LARGE);
        add(&pinned.count, -(uint64_t)1);
    }
}

int main(void) {
    ready();
    for (int round = 0; round <= ROUNDS; round++) {
        size_t size = size_of(round), blocks = round ? ROUND_BYTES / size : LARGES;
        for (size_t i = 0; i < blocks; i++) {
            int is_pin = !round || i % PART == 0;
            bursts[i] = is_pin ? NULL : burst(size);
            /* One place for all, so that it is one stack. */
            for (volatile int small = !is_pin; small < (round ? 2 : 1); small++) {
                size_t bytes = small ? SMALL : size;
                char *block = pin(bytes);
                if (!round) larges[larges_left++] = block;
                else pay(bytes);
            }
        }
        for (size_t i = 0; i < blocks; i++)
            if (bursts[i]) release(bursts[i], size);
        nanosleep(&(struct timespec){.tv_sec = 2}, NULL);
    }
    return finish("fragments", &pinned, NULL);
}

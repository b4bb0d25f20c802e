/* Blocks of known ages: some are freed at once, some after more than a second, some never. */
#include <time.h>

#include "victim.h"

enum { BRIEF = 1000, LONG = 100, KEPT = 50, THIRD = 100, SIZE = 100 };

static struct site by_kept = {.frames = "kept,main"};
static struct site by_mixed = {.frames = "mixed,main"};
static void *long_blocks[LONG], *mixed_blocks[3 * THIRD];

static void *taken(void *block) {
    if (!block) die("the victim's allocation failed");
    got(SIZE);
    return block;
}

static void give_back(void *block) {
    gone(SIZE);
    free(block);
}

FRAME static void brief(void) {
    for (int i = 0; i < BRIEF; i++) give_back(taken(malloc(SIZE)));
}

FRAME static void lasting(void) {
    for (int i = 0; i < LONG; i++) long_blocks[i] = taken(malloc(SIZE));
}

FRAME static void kept(void) {
    for (int i = 0; i < KEPT; i++) keep(&by_kept, malloc(SIZE), SIZE);
}

/* A third of each. */
FRAME static void mixed(void) {
    for (int i = 0; i < 3 * THIRD; i++) mixed_blocks[i] = taken(malloc(SIZE));
}

int main(void) {
    struct timespec left = {.tv_sec = 1, .tv_nsec = 100 * 1000 * 1000};
    ready();
    mixed();
    for (int i = 0; i < THIRD; i++) give_back(mixed_blocks[i]);
    brief();
    lasting();
    kept();
    while (nanosleep(&left, &left) && errno == EINTR) {}
    for (int i = THIRD; i < 2 * THIRD; i++) give_back(mixed_blocks[i]);
    for (int i = 0; i < LONG; i++) give_back(long_blocks[i]);
    for (int i = 0; i < THIRD; i++) stays(&by_mixed, SIZE);
    return finish("ages", &by_kept, &by_mixed, NULL);
}

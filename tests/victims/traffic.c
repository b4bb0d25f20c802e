/* Goes on with heavy traffic, by 512 stacks, until another byte comes; all blocks of it are freed, most of them
 * after a part of a second. At first it takes some large blocks for good. What else it does, the argument says:
 * `leak` leaves one block in a hundred behind, `cache` fills one for four seconds and then replaces what is in it,
 * `more` has more and more blocks at a time, none of them for long. */
#include "victim.h"
#include <poll.h>
#include <time.h>

enum { DEPTH = 9, PATHS = 1 << DEPTH, SLOTS = 16, REQUESTS = 20, TICK_MS = 2 };
enum { LARGE = 32, LARGE_BYTES = 1 << 20, ENTRY = 1000, ENTRIES = 4000, MOST = 1 << 16 };
static struct site large = {.frames = "take_large,main"};
static struct site leak = {.frames = "leak_one,main"};
static struct site in_cache = {.frames = "remember,main"};
static struct block {
    void *at;
    size_t bytes;
} in_flight[PATHS][SLOTS], of_more[MOST];
static void *cache[ENTRIES];
static uint64_t state = 0x9e3779b97f4a7c15;

static uint64_t draw(void) {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void replace(struct block *block, void *at, size_t bytes) {
    if (!at && bytes) die("malloc failed");
    if (block->at) {
        free(block->at);
        gone(block->bytes);
    }
    *block = (struct block){at, bytes};
    if (at) got(bytes);
}

FRAME static void answer(unsigned path) {
    static unsigned filled[PATHS];
    size_t bytes = 16 + draw() % 2048;
    size_t slot = filled[path] < SLOTS ? filled[path]++ : draw() % SLOTS;
    replace(&in_flight[path][slot], malloc(bytes), bytes);
}

static void turn(unsigned path, int depth);
FRAME static void left(unsigned path, int depth) { turn(path, depth); }
FRAME static void right(unsigned path, int depth) { turn(path, depth); }
FRAME static void turn(unsigned path, int depth) {
    if (depth == 0) answer(path);
    else if (path >> (depth - 1) & 1) left(path, depth - 1);
    else right(path, depth - 1);
}

FRAME static void take_large(void) { keep(&large, malloc(LARGE_BYTES), LARGE_BYTES); }

FRAME static void leak_one(void) { keep(&leak, malloc(1040), 1040); }

/* Fills the cache so far, and then replaces entries of it. */
FRAME static void remember(size_t filled) {
    static size_t count;
    size_t at = count < filled ? count++ : draw() % filled;
    if (cache[at]) {
        free(cache[at]);
        gone(ENTRY);
    }
    if (!(cache[at] = malloc(ENTRY))) die("malloc failed");
    got(ENTRY);
}

/* The oldest of so many that are there at a time makes room. */
FRAME static void one_of(size_t many) {
    static size_t next;
    next = (next + 1) % many;
    replace(&of_more[next], malloc(500), 500);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    ready();
    for (int i = 0; i < LARGE; i++) take_large();
    /* All that it has at a time, so that there is nothing to warm up. */
    for (int i = 0; i < PATHS * SLOTS; i++) turn(i % PATHS, DEPTH);
    uint64_t began = now_ms(), requests = 0;
    struct pollfd order = {.fd = 0, .events = POLLIN};
    while (poll(&order, 1, TICK_MS) == 0) {
        uint64_t ms = now_ms() - began + 1;
        for (int i = 0; i < REQUESTS; i++) {
            turn(draw() % PATHS, DEPTH);
            if (!strcmp(what, "leak") && ++requests % 100 == 0) leak_one();
        }
        if (!strcmp(what, "cache"))
            for (int i = 0; i < 4; i++) remember(ms < ENTRIES ? ms : ENTRIES);
        size_t many = ms / 10 + 1 < MOST ? ms / 10 + 1 : MOST;
        for (size_t i = 0; !strcmp(what, "more") && i < many / 50 + 1; i++) one_of(many);
    }
    wait_for_byte();
    for (int path = 0; path < PATHS; path++)
        for (int slot = 0; slot < SLOTS; slot++) replace(&in_flight[path][slot], NULL, 0);
    for (size_t i = 0; i < MOST; i++) replace(&of_more[i], NULL, 0);
    for (size_t i = 0; i < ENTRIES; i++)
        if (cache[i]) stays(&in_cache, ENTRY);
    return finish("traffic", &large, &leak, &in_cache, NULL);
}

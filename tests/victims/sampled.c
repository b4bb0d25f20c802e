/* The same work at 200 stacks, for the statistics of a sample: blocks of many sizes of which every
 * second is freed, by malloc, calloc and realloc, and some of which all are (churn). A stack is a
 * number as in big.c. */
#include "victim.h"

enum { LEVELS = 8, STACKS = 200, MOST = 4, BLOCKS = 674 };
static const struct {
    size_t size;
    unsigned count; /* together BLOCKS */
} sizes[] = {{16, 256}, {100, 256}, {700, 128}, {3000, 32}, {20000, 1}, {100000, 1}};

static struct site kept_malloc = {.frames = "by_malloc,work"};
static struct site kept_calloc = {.frames = "by_calloc,work"};
static struct site kept_realloc = {.frames = "by_realloc,work"};

FRAME static void *by_malloc(size_t size) { return malloc(size); }
/* musl's calloc calls malloc. */
FRAME static void *by_calloc(size_t size) { return calloc(1, size); }
FRAME static void *churn(size_t size) { return malloc(size); }

FRAME static void *by_realloc(size_t size) {
    void *small = malloc(200);
    if (!small) die("the victim's allocation failed");
    got(200);
    void *block = realloc(small, size);
    if (block) gone(200);
    return block;
}

/* Takes `scale` times twice the BLOCKS; keeps every second, or none without a site. */
FRAME static void work(struct site *site, void *(*take)(size_t), unsigned scale) {
    static struct {
        void *block;
        size_t size;
    } freed[2 * MOST * BLOCKS];
    unsigned n = 0;
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t size = sizes[i].size;
        for (unsigned k = 0; k < 2 * scale * sizes[i].count; k++) {
            void *block = take(size);
            if (site && k % 2) {
                keep(site, block, size);
                continue;
            }
            if (!block) die("the victim's allocation failed");
            got(size);
            freed[n].block = block;
            freed[n++].size = size;
        }
    }
    for (unsigned i = 0; i < n; i++) {
        gone(freed[i].size);
        free(freed[i].block);
    }
}

FRAME static void descend(unsigned bits, int levels);

FRAME static void zero(unsigned bits, int levels) { descend(bits, levels); }
FRAME static void one(unsigned bits, int levels) { descend(bits, levels); }

FRAME static void descend(unsigned bits, int levels) {
    if (levels > 0) {
        (bits & 1 ? one : zero)(bits >> 1, levels - 1);
        return;
    }
    work(&kept_malloc, by_malloc, MOST);
    work(&kept_calloc, by_calloc, 1);
    work(&kept_realloc, by_realloc, 1);
    work(NULL, churn, 1);
}

int main(void) {
    ready();
    for (unsigned i = 0; i < STACKS; i++) descend(i, LEVELS);
    return finish("sampled", &kept_malloc, &kept_calloc, &kept_realloc, NULL);
}

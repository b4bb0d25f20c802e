/* Allocator calls that are left by longjmp and never return. They yield no block, and what comes
 * after them, in shallower frames and in deeper ones, must all be counted. Return addresses of the
 * abandoned calls stay on the stack below, and deeper frames may leave them there untouched: that
 * they are still there does not mean that the calls are still running. */
#include "own_malloc.h"
#include <alloca.h>
#include <setjmp.h>

static struct site shallow = {.frames = "leak_after,shallow_work,main"};
static struct site same = {.frames = "leak_after,reach"};
static struct site deeper = {.frames = "leak_after,below,reach"};
static jmp_buf back;

FRAME static void leave(void) {
    in_the_middle = NULL;
    longjmp(back, 1);
}

FRAME static void *leak_after(size_t size) { return sure(malloc(size)); }

FRAME static void below(size_t gap) {
    /* A gap that is never written. */
    char *volatile untouched = alloca(gap);
    (void)untouched;
    keep(&deeper, leak_after(70), 70);
    void *block = leak_after(80);
    got(80);
    free(block);
    gone(80);
}

enum what { ABANDON_MALLOC, ABANDON_CALLOC, ALLOCATE, ALLOCATE_BELOW };

/* Does it `depth` frames further down. */
FRAME static void reach(int depth, enum what what, size_t gap) {
    void *volatile block = NULL;
    if (depth > 0) {
        reach(depth - 1, what, gap);
    } else if (what == ABANDON_MALLOC) {
        in_the_middle = leave;
        block = malloc(1000);
    } else if (what == ABANDON_CALLOC) {
        in_the_middle = leave;
        block = calloc(10, 100);
    } else if (what == ALLOCATE) {
        keep(&same, leak_after(60), 60);
    } else {
        below(gap);
    }
    if (block) die("an abandoned call came back");
}

FRAME static void abandon(int depth, enum what what) {
    if (!setjmp(back)) {
        reach(depth, what, 0);
        die("an abandoned call came back");
    }
}

FRAME static void shallow_work(int depth) {
    abandon(depth, depth % 2 ? ABANDON_MALLOC : ABANDON_CALLOC);
    reach(depth + depth % 7, ALLOCATE_BELOW, 16 * (size_t)depth);
    abandon(depth, ABANDON_MALLOC);
    reach(depth / 2, ALLOCATE, 0);
    abandon(depth, ABANDON_CALLOC);
    keep(&shallow, leak_after(50), 50);
    /* Again and again, without anything between. */
    for (int i = 0; i < 20; i++) abandon(depth, i % 2 ? ABANDON_MALLOC : ABANDON_CALLOC);
    reach(depth, ALLOCATE_BELOW, 400);
}

int main(void) {
    ready();
    for (int depth = 1; depth <= 30; depth++) shallow_work(depth);
    return finish("longjmp", &shallow, &same, &deeper, NULL);
}

/* Stacks deeper than any profiler records: cut, but no block is lost and the callers are right. */
#include "victim.h"

static struct site at_bottom = {.frames = "leak_deep,dive,dive,dive"};
static struct site at_top = {.frames = "leak_deep,main"};

FRAME static void leak_deep(struct site *site) { keep(site, malloc(60), 60); }

FRAME static void dive(int depth) {
    if (depth > 1)
        dive(depth - 1);
    else
        leak_deep(&at_bottom);
}

int main(void) {
    ready();
    for (int depth = 3; depth < 400; depth += 25) dive(depth);
    leak_deep(&at_top);
    return finish("deep", &at_bottom, &at_top, NULL);
}

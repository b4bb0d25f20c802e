/* Functions that only debug information knows: one that is inlined, and static ones that a stripped
 * program has no names for. */
#include "victim.h"

static struct site at_inlined = {.frames = "leak_inlined,leak_outer,main"};
static struct site at_plain = {.frames = "leak_plain,main"};

__attribute__((always_inline)) static inline void leak_inlined(void) {
    keep(&at_inlined, malloc(48), 48);
    /* Not the last thing in its caller. */
    __asm__ volatile("");
}

FRAME static void leak_outer(void) {
    leak_inlined();
    __asm__ volatile("");
}

FRAME static void leak_plain(void) { keep(&at_plain, malloc(80), 80); }

int main(void) {
    ready();
    leak_outer();
    leak_plain();
    return finish("names", &at_inlined, &at_plain, NULL);
}

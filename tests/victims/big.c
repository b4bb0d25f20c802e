/* Many live blocks over many stacks: `big [BLOCKS [STACKS [LEVELS]]]`, 1000 over 100 when not said, at
 * most 16384 stacks. A stack is a number: at each of 14 levels, or more, its next bit chooses between
 * two functions. For measuring how long a report takes. */
#include "victim.h"

enum { BITS = 14, SIZE = 32 };
static struct site all = {.frames = "leak_big"};

FRAME static void leak_big(void) { keep(&all, malloc(SIZE), SIZE); }

FRAME static void descend(unsigned bits, int levels);

FRAME static void zero(unsigned bits, int levels) { descend(bits, levels); }
FRAME static void one(unsigned bits, int levels) { descend(bits, levels); }

FRAME static void descend(unsigned bits, int levels) {
    if (levels == 0)
        leak_big();
    else if (bits & 1)
        one(bits >> 1, levels - 1);
    else
        zero(bits >> 1, levels - 1);
}

int main(int argc, char **argv) {
    unsigned long blocks = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000;
    unsigned long stacks = argc > 2 ? strtoul(argv[2], NULL, 10) : 100;
    unsigned long levels = argc > 3 ? strtoul(argv[3], NULL, 10) : BITS;
    if (!stacks || stacks > 1 << BITS || levels < BITS || levels > 1000)
        die("usage: big [BLOCKS [STACKS [LEVELS]]], STACKS up to 16384, LEVELS from 14 to 1000");
    ready();
    for (unsigned long i = 0; i < blocks; i++) descend((unsigned)(i % stacks), (int)levels);
    return finish("big", &all, NULL);
}

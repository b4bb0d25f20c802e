/* The protocol of the oracle's programs, for C and C++: say `ready PID`, wait for a byte, work, say
 * `done`, wait for the end of stdin. And a random generator that gives the same on every libc. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static uint32_t random_state = 1;

static inline uint32_t random_below(uint32_t limit) {
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % limit;
}

static inline void wait_to_start(void) {
    char byte;
    dprintf(1, "ready %d\n", (int)getpid());
    if (read(0, &byte, 1) != 1) _exit(1);
}

static inline int say_done(void) {
    char byte;
    dprintf(1, "done\n");
    while (read(0, &byte, 1) == 1) {
    }
    return 0;
}

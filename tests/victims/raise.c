/* A signal handler that allocates in the middle of an allocator call, without any chance in it:
 * the call itself raises the signal. Both the handler's blocks and the interrupted call's block
 * count. The handler may be interrupted in its own call once more, by the other signal. */
#include "own_malloc.h"
#include <signal.h>

#ifndef ALTSTACK
#define ALTSTACK 0
#define NAME "raise"
#endif

static struct site in_handler = {.frames = "leak_in_handler,on_signal"};
static struct site in_second = {.frames = "leak_in_handler,on_second_signal"};
static struct site outside = {.frames = "leak_outside,work,main"};
static struct site by_calloc = {.frames = "leak_calloc,work,main"};
static struct site by_realloc = {.frames = "leak_realloc,work,main"};
static volatile int twice;

FRAME static void raise_second(void) {
    in_the_middle = NULL;
    raise(SIGUSR2);
}

FRAME static void raise_first(void) {
    in_the_middle = NULL;
    raise(SIGUSR1);
}

FRAME static void leak_in_handler(struct site *site, size_t size) {
    keep(site, malloc(size), size);
    void *block = sure(calloc(size, 3));
    got(3 * size);
    free(block);
    gone(3 * size);
}

FRAME static void on_second_signal(int signal) {
    (void)signal;
    leak_in_handler(&in_second, 50);
}

FRAME static void on_signal(int signal) {
    (void)signal;
    if (twice) in_the_middle = raise_second;
    leak_in_handler(&in_handler, 40);
}

FRAME static void *leak_outside(size_t size) { return sure(malloc(size)); }
FRAME static void *leak_calloc(size_t size) { return sure(calloc(1, size)); }
FRAME static void *leak_realloc(void *old, size_t size) { return sure(realloc(old, size)); }

FRAME static void work(void) {
    for (size_t i = 1; i <= 40; i++) {
        twice = i % 4 == 0;
        in_the_middle = raise_first;
        keep(&outside, leak_outside(i), i);
        keep(&outside, leak_outside(2 * i), 2 * i);
        in_the_middle = raise_first;
        keep(&by_calloc, leak_calloc(i), i);
        void *block = leak_outside(i);
        got(i);
        in_the_middle = raise_first;
        block = leak_realloc(block, 3 * i);
        gone(i);
        keep(&by_realloc, block, 3 * i);
        block = leak_outside(i);
        got(i);
        in_the_middle = raise_first;
        free(block);
        gone(i);
    }
}

int main(void) {
    static char stack[1 << 16];
    stack_t alternative = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction first = {.sa_handler = on_signal}, second = {.sa_handler = on_second_signal};
    if (ALTSTACK) {
        first.sa_flags = second.sa_flags = SA_ONSTACK;
        if (sigaltstack(&alternative, NULL)) die("sigaltstack failed");
    }
    if (sigaction(SIGUSR1, &first, NULL) || sigaction(SIGUSR2, &second, NULL))
        die("sigaction failed");
    ready();
    work();
    return finish(NAME, &in_handler, &in_second, &outside, &by_calloc, &by_realloc, NULL);
}

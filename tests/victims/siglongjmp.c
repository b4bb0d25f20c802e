/* A signal handler that interrupts an allocator call, allocates, and leaves by siglongjmp: the
 * interrupted call never returns and yields no block, the handler's blocks count. */
#include "own_malloc.h"
#include <setjmp.h>
#include <signal.h>

#ifndef ALTSTACK
#define ALTSTACK 0
#define NAME "siglongjmp"
#endif

static struct site in_handler = {.frames = "leak_in_handler,on_signal"};
static struct site outside = {.frames = "leak_outside,work,main"};
static struct site below = {.frames = "leak_outside,deeper,deeper"};
static sigjmp_buf back;

FRAME static void raise_it(void) {
    in_the_middle = NULL;
    raise(SIGUSR1);
}

FRAME static void leak_in_handler(void) { keep(&in_handler, malloc(40), 40); }

FRAME static void on_signal(int signal) {
    (void)signal;
    leak_in_handler();
    siglongjmp(back, 1);
}

FRAME static void *leak_outside(size_t size) { return sure(malloc(size)); }

FRAME static void deeper(int depth) {
    if (depth > 0)
        deeper(depth - 1);
    else
        keep(&below, leak_outside(30), 30);
}

FRAME static void interrupt(int calloc_too) {
    if (sigsetjmp(back, 1)) return;
    in_the_middle = raise_it;
    void *volatile block = calloc_too ? calloc(3, 333) : malloc(999);
    (void)block;
    die("an abandoned call came back");
}

FRAME static void work(void) {
    for (int i = 1; i <= 50; i++) {
        interrupt(i % 2);
        keep(&outside, leak_outside(20), 20);
        interrupt(i % 3);
        deeper(i);
        void *block = leak_outside(10);
        got(10);
        free(block);
        gone(10);
    }
}

int main(void) {
    static char stack[1 << 16];
    stack_t alternative = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_handler = on_signal};
    if (ALTSTACK) {
        action.sa_flags = SA_ONSTACK;
        if (sigaltstack(&alternative, NULL)) die("sigaltstack failed");
    }
    if (sigaction(SIGUSR1, &action, NULL)) die("sigaction failed");
    ready();
    work();
    return finish(NAME, &in_handler, &outside, &below, NULL);
}

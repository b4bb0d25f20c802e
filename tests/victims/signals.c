/* A thread in a loop of malloc and free that another thread hammers with signals, whose handler
 * allocates, frees and leaks: wherever in the loop it hits, nothing may be lost. The allocator is
 * the victim's own, because glibc's does not survive this. */
#include "own_malloc.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>

enum { SIGNALS = 1000 };
static struct site in_handler = {.frames = "leak_in_handler,on_signal"};
static struct site in_loop = {.frames = "leak_in_loop,work,main"};
static pthread_barrier_t started, finished;
static int main_thread, handled, stop;

FRAME static void *leak_in_handler(size_t size) { return sure(malloc(size)); }
FRAME static void *leak_in_loop(size_t size) { return sure(malloc(size)); }

FRAME static void on_signal(int signal) {
    (void)signal;
    void *block = leak_in_handler(33);
    if (handled % 16 == 0) {
        keep(&in_handler, block, 33);
    } else {
        got(33);
        free(block);
        gone(33);
    }
    __atomic_fetch_add(&handled, 1, __ATOMIC_SEQ_CST);
}

/* One signal at a time: more would only be merged by the kernel. */
FRAME static void *hammer(void *nothing) {
    pthread_barrier_wait(&started);
    for (int sent = 1; sent <= SIGNALS; sent++) {
        syscall(SYS_tgkill, getpid(), main_thread, SIGUSR1);
        while (__atomic_load_n(&handled, __ATOMIC_SEQ_CST) < sent) sched_yield();
    }
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    pthread_barrier_wait(&finished);
    return nothing;
}

FRAME static void work(void) {
    for (size_t i = 0; !__atomic_load_n(&stop, __ATOMIC_SEQ_CST); i++) {
        size_t size = 16 + i % 64;
        void *block = leak_in_loop(size);
        if (i % 32 == 0 && i < 32 * 1000) {
            keep(&in_loop, block, size);
        } else {
            got(size);
            free(block);
            gone(size);
        }
    }
}

int main(void) {
    pthread_t thread;
    struct sigaction action = {.sa_handler = on_signal};
    main_thread = (int)syscall(SYS_gettid);
    if (sigaction(SIGUSR1, &action, NULL)) die("sigaction failed");
    pthread_barrier_init(&started, NULL, 2);
    pthread_barrier_init(&finished, NULL, 2);
    if (pthread_create(&thread, NULL, hammer, NULL)) die("pthread_create failed");
    ready();
    pthread_barrier_wait(&started);
    work();
    int result = finish("signals", &in_handler, &in_loop, NULL);
    pthread_barrier_wait(&finished);
    pthread_join(thread, NULL);
    return result;
}

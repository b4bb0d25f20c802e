/* It grows by what it has from the kernel itself, and not by malloc: `mappings`, of which it unmaps a part of each,
 * or `threads`, which never end. It ends with the test. */
#include "victim.h"
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>

enum { MIB = 1 << 20, OF_STACK = 256 << 10 };

/* Not with the memory that is filled with zeros anyway. */
static void touch(char *at, size_t bytes) { memset(at, 1, bytes); }

FRAME static void hoard_mapping(void) {
    char *at = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) die("mmap failed");
    touch(at, MIB);
    if (munmap(at + MIB / 2, MIB / 4)) die("munmap failed");
}

static void *wait_for_ever(void *nothing) {
    char stack[OF_STACK];
    touch(stack, sizeof stack);
    __asm__ volatile("" ::"r"(stack) : "memory");
    for (;;) pause();
    return nothing;
}

FRAME static void hoard_thread(void) {
    pthread_t thread;
    pthread_attr_t with;
    pthread_attr_init(&with);
    pthread_attr_setstacksize(&with, MIB);
    if (pthread_create(&thread, &with, wait_for_ever, NULL)) die("pthread_create failed");
}

int main(int count, char **words) {
    int threads = count > 1 && !strcmp(words[1], "threads");
    ready();
    for (;;) {
        if (threads) hoard_thread();
        else hoard_mapping();
        nanosleep(&(struct timespec){.tv_nsec = 100 * 1000 * 1000}, NULL);
    }
}

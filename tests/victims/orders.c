/* Does what each byte on stdin says, and sums up after each, for recordings that begin, are looked at
 * and end in the middle of it:
 *   g  leaves ten blocks behind, and frees ten others
 *   m  leaves a block of 32 MiB behind, every page of it touched
 *   r  forgets what it did so far: the next summaries begin here
 *   e  ends with exit status 3
 *   s  ends by SIGSEGV
 *   o  takes memory until somebody ends it
 * It ends well with the end of stdin. */
#include "victim.h"
#include <signal.h>
#include <sys/resource.h>

enum { LARGE = 32 << 20, PAGE = 4096 };
static struct site small = {.frames = "leak_small,main"};
static struct site large = {.frames = "leak_large,main"};

FRAME static void leak_small(size_t size) {
    keep(&small, malloc(size), size);
    void *block = malloc(2 * size);
    got(2 * size);
    free(block);
    gone(2 * size);
}

FRAME static void leak_large(void) {
    volatile char *block = malloc(LARGE);
    keep(&large, (void *)block, LARGE);
    for (size_t at = 0; at < LARGE; at += PAGE) block[at] = 1;
}

/* A core dump would stay behind. */
static void without_core(void) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
}

static char order(void) {
    char byte;
    ssize_t n;
    do n = read(0, &byte, 1); while (n < 0 && errno == EINTR);
    return n == 1 ? byte : 0;
}

static void forget(void) {
    memset(&ledger, 0, sizeof ledger);
    small.bytes = small.count = large.bytes = large.count = 0;
}

int main(void) {
    static struct text text;
    put(&text, "ready ");
    put_number(&text, (uint64_t)getpid());
    put(&text, "\n");
    send_text(&text);
    for (;;) {
        switch (order()) {
        case 'g':
            for (size_t i = 1; i <= 10; i++) leak_small(i * 30);
            break;
        case 'm': leak_large(); break;
        case 'r': forget(); break;
        case 'e': _exit(3);
        case 's':
            without_core();
            raise(SIGSEGV);
            break;
        case 'o':
            for (;;) leak_large();
        default: return 0;
        }
        summary("orders", &small, &large, NULL);
    }
}

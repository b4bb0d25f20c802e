/* Ends by itself, deep inside, right after the summary: the report is of what was live then. */
#include "victim.h"

static struct site left_over = {.frames = "leak_malloc,work,main"};

FRAME static void *leak_malloc(size_t size) { return malloc(size); }

FRAME static void leave(void) {
    summary("exit", &left_over, NULL);
    exit(0);
}

FRAME static void work(void) {
    for (size_t i = 1; i <= 25; i++) {
        keep(&left_over, leak_malloc(i * 30), i * 30);
        void *block = leak_malloc(i);
        got(i);
        free(block);
        gone(i);
    }
    leave();
}

int main(void) {
    ready();
    work();
    return 1;
}

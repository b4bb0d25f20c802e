/* Functions of the C library that allocate, or call back what does. How much they allocate is the
 * library's affair: only the stacks are known, and only of the victim's own functions the bytes. */
#include "victim.h"

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>

static struct site in_compare = {.frames = "compare"};
static struct site in_thread = {.frames = "leak_in_thread,thread"};
static FILE *file;
static int numbers[] = {2, 1};

FRAME static void by_fopen(void) {
    if (!(file = fopen("/proc/self/status", "r"))) die("the victim cannot open a file");
}

FRAME static void by_getline(void) {
    char *line = NULL;
    size_t size = 0;
    if (getline(&line, &size, file) < 0) die("the victim cannot read a line");
}

FRAME static void by_strdup(void) {
    if (!strdup("to be kept")) die("the victim's allocation failed");
}

/* Two numbers are compared once. */
FRAME static int compare(const void *a, const void *b) {
    if (!in_compare.count) keep(&in_compare, malloc(123), 123);
    return *(const int *)a - *(const int *)b;
}

FRAME static void by_qsort(void) {
    qsort(numbers, 2, sizeof numbers[0], compare);
    __asm__ volatile("");
}

FRAME static void by_scandir(void) {
    struct dirent **names;
    if (scandir("/proc/self/task", &names, NULL, NULL) < 0) die("the victim cannot list a folder");
}

FRAME static void leak_in_thread(void) { keep(&in_thread, malloc(456), 456); }

FRAME static void *thread(void *unused) {
    leak_in_thread();
    return unused;
}

int main(void) {
    pthread_t id;
    ready();
    by_fopen();
    by_getline();
    by_strdup();
    by_qsort();
    by_scandir();
    if (pthread_create(&id, NULL, thread, NULL)) die("pthread_create failed");
    pthread_join(id, NULL);
    return finish("libc", &in_compare, &in_thread, NULL);
}

/* Allocates on thousands of different stacks that lead through the C library: each step calls a
 * function of it that calls back, or that allocates itself, chosen at random, nested to a random
 * depth. Built with musl and with glibc, without frame pointers. Every eighth block stays. */
#define _GNU_SOURCE
#include "protocol.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <link.h>
#include <locale.h>
#include <pthread.h>
#include <regex.h>
#include <search.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

#define STEP static __attribute__((noinline)) void
#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static __thread int depth;
static __thread int budget; /* how many more steps */
static __thread int light;  /* little stack is left */
static __thread int locked; /* the C library holds a lock: nobody may wait for another thread */
STEP nest(void);

STEP drop(void *block) {
    if (random_below(8)) free(block);
}

/* What allocates by itself. */

STEP leaf_malloc(void) { drop(malloc(1 + random_below(99))); }
STEP leaf_calloc(void) { drop(calloc(1 + random_below(9), 8)); }
STEP leaf_realloc(void) { drop(realloc(malloc(8), 100)); }
STEP leaf_strdup(void) { drop(strdup("a string")); }
STEP leaf_strndup(void) { drop(strndup("a string", 3)); }
STEP leaf_asprintf(void) {
    char *text;
    if (asprintf(&text, "%d %s %f", depth, "text", 1.5) > 0) drop(text);
}
STEP leaf_fopen(void) {
    FILE *file = fopen("/dev/null", "r");
    if (file) fclose(file);
}
STEP leaf_opendir(void) {
    DIR *folder = opendir("/");
    if (folder) closedir(folder);
}
STEP leaf_regcomp(void) {
    regex_t regex;
    if (!regcomp(&regex, "(a|b)*c[d-f]+", REG_EXTENDED)) {
        regexec(&regex, "ababcde", 0, NULL, 0);
        regfree(&regex);
    }
}
STEP leaf_getline(void) {
    static const char text[] = "one line\nand another one, which is longer\n";
    FILE *file = fmemopen((void *)text, sizeof text - 1, "r");
    char *line = NULL;
    size_t size = 0;
    if (!file) return;
    while (getline(&line, &size, file) > 0) {
    }
    fclose(file);
    drop(line);
}
STEP leaf_glob(void) {
    glob_t found;
    if (!glob("/pro*/self/st*", 0, NULL, &found)) globfree(&found);
}
STEP leaf_memstream(void) {
    char *text = NULL;
    size_t size;
    FILE *file = open_memstream(&text, &size);
    if (!file) return;
    for (int i = 0; i < 100; i++) fprintf(file, "%0*d", 40, i);
    fclose(file);
    drop(text);
}
STEP leaf_aligned(void) {
    void *block;
    if (!posix_memalign(&block, 64, 100)) drop(block);
}

static void (*const leaves[])(void) = {
    leaf_malloc, leaf_calloc, leaf_realloc, leaf_strdup,    leaf_strndup, leaf_aligned,
    leaf_fopen,  leaf_regcomp, leaf_getline, leaf_asprintf, leaf_opendir, leaf_memstream,
    leaf_glob,
};
#define LIGHT 6

/* What calls back. */

static int compare(const void *a, const void *b) {
    if (random_below(3) == 0) nest();
    return *(const int *)a - *(const int *)b;
}
STEP step_qsort(void) {
    int numbers[12];
    for (size_t i = 0; i < COUNT(numbers); i++) numbers[i] = (int)random_below(100);
    qsort(numbers, COUNT(numbers), sizeof *numbers, compare);
}
STEP step_bsearch(void) {
    int numbers[3] = {1, 2, 3};
    if (!bsearch(&numbers[1], numbers, 3, sizeof *numbers, compare)) abort();
}
static int compare_texts(const void *a, const void *b) {
    if (random_below(4) == 0) nest();
    return strcmp(a, b);
}
static void visit(const void *node, VISIT order, int level) {
    (void)node, (void)level;
    if (order == leaf) nest();
}
STEP step_tree(void) {
    static const char *const texts[] = {"d", "b", "f", "a", "c"};
    void *root = NULL;
    for (size_t i = 0; i < COUNT(texts); i++) tsearch(texts[i], &root, compare_texts);
    twalk(root, visit);
    for (size_t i = 0; i < COUNT(texts); i++) tdelete(texts[i], &root, compare_texts);
}
static int object(struct dl_phdr_info *info, size_t size, void *data) {
    (void)info, (void)size, (void)data;
    nest();
    return 1;
}
STEP step_objects(void) {
    locked++;
    dl_iterate_phdr(object, NULL);
    locked--;
}
static int file(const char *path, const struct stat *stat, int flag, struct FTW *ftw) {
    (void)path, (void)stat, (void)flag, (void)ftw;
    nest();
    return random_below(2);
}
STEP step_nftw(void) { nftw("/proc/self/task", file, 4, FTW_PHYS); }
static int select_entry(const struct dirent *entry) {
    (void)entry;
    if (random_below(4) == 0) nest();
    return 0;
}
STEP step_scandir(void) {
    struct dirent **list;
    if (scandir("/proc/self/task", &list, select_entry, alphasort) >= 0) free(list);
}
static ssize_t cookie_write(void *cookie, const char *text, size_t size) {
    (void)cookie, (void)text;
    nest();
    return (ssize_t)size;
}
STEP step_stream(void) {
    cookie_io_functions_t functions = {.write = cookie_write};
    FILE *stream = fopencookie(NULL, "w", functions);
    if (!stream) return;
    if (random_below(2)) setvbuf(stream, NULL, _IONBF, 0);
    fprintf(stream, "%s %d %g", "text", depth, 2.5);
    fclose(stream);
}
STEP step_once(void) {
    pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, nest);
}
STEP step_alloca(void) {
    volatile char *room = __builtin_alloca(1 + random_below(300));
    room[0] = 0;
    nest();
}
STEP step_array(void) {
    volatile char room[1 + random_below(300)];
    room[0] = 0;
    nest();
    (void)room[0];
}
STEP step_aligned(void) {
    volatile char room[64] __attribute__((aligned(64)));
    room[0] = 0;
    nest();
    (void)room[0];
}
STEP step_large(void) {
    volatile char room[5000];
    room[0] = 0;
    nest();
    (void)room[0];
}
STEP many(int a, int b, int c, int d, int e, int f, int g, int h, ...) {
    va_list list;
    va_start(list, h);
    volatile int sum = a + b + c + d + e + f + g + h + va_arg(list, int);
    va_end(list);
    nest();
    sum++;
}
STEP step_arguments(void) { many(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11); }
static void *thread(void *argument) {
    depth = *(int *)argument;
    budget = 10;
    nest();
    return NULL;
}
STEP step_thread(void) {
    pthread_t id;
    int argument = depth;
    if (locked || random_below(4)) nest();
    else if (!pthread_create(&id, NULL, thread, &argument)) pthread_join(id, NULL);
}
static void handler(int number) {
    (void)number;
    nest();
}
STEP step_signal(void) { raise(random_below(2) ? SIGUSR1 : SIGUSR2); }
STEP step_fault(void) {
    /* The instruction itself is interrupted, here the first one of a function. */
    __asm__ volatile("ud2" ::: "memory");
}
static void fault_handler(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    nest();
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
}

static void (*const steps[])(void) = {
    step_qsort,  step_bsearch, step_tree,    step_once,  step_signal,    step_fault,
    step_alloca, step_array,   step_aligned, step_large, step_arguments, step_objects,
    step_nftw,   step_scandir, step_stream,  step_thread,
};
#define LIGHT_STEPS 9

STEP nest(void) {
    if (depth <= 0 || --budget <= 0 || random_below(6) == 0) {
        leaves[random_below(light ? LIGHT : COUNT(leaves))]();
        return;
    }
    depth--;
    steps[random_below(light ? LIGHT_STEPS : COUNT(steps))]();
    depth++;
}

/* A thread whose stack follows its signal stack in memory, so that one copy holds both. */
static void *on_two_stacks(void *memory) {
    stack_t stack = {.ss_sp = memory, .ss_size = 24 << 10};
    sigaltstack(&stack, NULL);
    light = 1;
    for (int i = 0; i < 600; i++) {
        depth = 1 + (int)random_below(5);
        budget = 20;
        nest();
    }
    return NULL;
}

int main(void) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_NODEFER};
    sigaction(SIGUSR1, &action, NULL);
    action.sa_flags |= SA_ONSTACK;
    sigaction(SIGUSR2, &action, NULL);
    action.sa_sigaction = fault_handler;
    action.sa_flags = SA_NODEFER | SA_SIGINFO;
    sigaction(SIGILL, &action, NULL);
    setlocale(LC_ALL, "C.UTF-8");

    wait_to_start();
    for (int i = 0; i < 700; i++) {
        depth = 1 + (int)random_below(10);
        budget = 30;
        nest();
    }
    /* A copy ends where a page was never touched. */
    char *memory = mmap(NULL, 60 << 10, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    pthread_attr_t attributes;
    pthread_t id;
    pthread_attr_init(&attributes);
    if (memory == MAP_FAILED || pthread_attr_setstack(&attributes, memory + (24 << 10), 36 << 10) ||
        pthread_create(&id, &attributes, on_two_stacks, memory))
        return 1;
    pthread_join(id, NULL);
    return say_done();
}

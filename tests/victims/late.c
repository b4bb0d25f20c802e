/* Code that comes after the profiler: a shared library that is loaded and memory that is filled
 * with code, both after the first go byte. What is allocated there at once may be too early for
 * the profiler; what is allocated after the second go byte may not. The loader allocates too, so
 * only the leaks of the summary are exact.
 *
 * The library is made of this file as well. */
#include "victim.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>

/* Calls back through two frames of the library. */
void late_outer(void (*callee)(void));

#ifdef LIBRARY
FRAME static void late_inner(void (*callee)(void)) {
    callee();
    __asm__ volatile(""); /* no tail call */
}

void late_outer(void (*callee)(void)) {
    late_inner(callee);
    __asm__ volatile("");
}
#else
static struct site early_library = {.frames = "leak_1,late_inner,late_outer,use_library,main"};
static struct site early_code = {.frames = "leak_2,?,use_code,main"};
static struct site late_library = {.frames = "leak_3,late_inner,late_outer,use_library,main"};
static struct site late_code = {.frames = "leak_4,?,use_code,main"};

FRAME static void leak_1(void) { keep(&early_library, malloc(1001), 1001); }
FRAME static void leak_2(void) { keep(&early_code, malloc(1002), 1002); }
FRAME static void leak_3(void) { keep(&late_library, malloc(1003), 1003); }
FRAME static void leak_4(void) { keep(&late_code, malloc(1004), 1004); }

static void (*library)(void (*callee)(void));
static unsigned char *code;

FRAME static void use_library(void (*callee)(void)) {
    library(callee);
    __asm__ volatile("");
}

FRAME static void use_code(void (*callee)(void)) {
    ((void (*)(void (*)(void)))(uintptr_t)code)(callee);
    __asm__ volatile("");
}

static void load(void) {
    char path[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 4);
    if (length < 0) die("the victim does not know where it is");
    memcpy(path + length, ".so", 4);
    void *handle = dlopen(path, RTLD_NOW);
    library = handle ? (void (*)(void (*)(void)))(uintptr_t)dlsym(handle, "late_outer") : NULL;
    if (!library) die("the victim's library cannot be loaded");
}

/* push rbp; mov rbp,rsp; call rdi; pop rbp; ret */
static void compile(void) {
    static const unsigned char bytes[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3};
    int protection = PROT_READ | PROT_WRITE | PROT_EXEC;
    code = mmap(NULL, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED) die("the victim cannot make code");
    memcpy(code, bytes, sizeof bytes);
}

int main(void) {
    ready();
    load();
    use_library(leak_1);
    compile();
    use_code(leak_2);
    summary("late", &early_library, &early_code, NULL);
    if (!wait_for_byte()) return 1;
    use_library(leak_3);
    use_code(leak_4);
    return finish("late", &late_library, &late_code, NULL);
}
#endif

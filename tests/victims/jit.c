/* A JIT compiler of the smallest kind: code made at run time, named in /tmp/perf-PID.map, and made
 * anew at the same place under another name. It says what it did after each go byte but the last,
 * which lets it end; before that it removes its map. */
#include "victim.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

static struct site at_first = {.frames = "leak_first,jit:first,main"};
static struct site at_second = {.frames = "leak_second,jit:second,main"};
static struct site at_late = {.frames = "leak_late,jit:late,main"};

FRAME static void leak_first(void) { keep(&at_first, malloc(100), 100); }
FRAME static void leak_second(void) { keep(&at_second, malloc(200), 200); }
FRAME static void leak_late(void) { keep(&at_late, malloc(300), 300); }

/* Code that calls a function, with a frame: push rbp; mov rbp,rsp; mov rax,callee; call rax;
 * pop rbp; ret. */
static void compile(unsigned char *at, void (*callee)(void)) {
    static const unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0x48, 0xb8, 0, 0, 0,
                                         0,    0,    0,    0,    0,    0xff, 0xd0, 0x5d, 0xc3};
    memcpy(at, code, sizeof code);
    memcpy(at + 6, &callee, sizeof callee);
}

static int map;

static void say(const char *format, const unsigned char *at, unsigned size) {
    char line[200];
    int length = snprintf(line, sizeof line, format, (unsigned long)(uintptr_t)at, size);
    if (write(map, line, (size_t)length) != length) die("the map cannot be written");
}

int main(void) {
    char path[64];
    snprintf(path, sizeof path, "/tmp/perf-%d.map", (int)getpid());
    map = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int protection = PROT_READ | PROT_WRITE | PROT_EXEC;
    unsigned char *code = mmap(NULL, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map < 0 || code == MAP_FAILED) die("the victim cannot make code");
    say("%lx %x jit:stale\n", code, 1024);
    ready();

    compile(code, leak_first);
    say("%lx %x jit:first\n", code, 32);
    ((void (*)(void))(uintptr_t)code)();
    __asm__ volatile(""); /* no tail call */
    summary("jit", &at_first, NULL);
    if (!wait_for_byte()) return 1;

    /* Moved: what was at this address is no more. */
    compile(code, leak_second);
    say("%lx %x jit:second\n", code, 64);
    ((void (*)(void))(uintptr_t)code)();
    __asm__ volatile("");
    summary("jit", &at_first, &at_second, NULL);
    if (!wait_for_byte()) return 1;

    /* The last line has no end when the code runs: it is not known before there is one. */
    compile(code + 2048, leak_late);
    say("%lx %x jit:la", code + 2048, 64);
    ((void (*)(void))(uintptr_t)(code + 2048))();
    __asm__ volatile("");
    say("te\n", code, 0);
    unlink(path);
    return finish("jit", &at_first, &at_second, &at_late, NULL);
}

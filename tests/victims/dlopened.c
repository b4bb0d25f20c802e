/* An allocator that comes after the profiler: after the first go byte a library that defines malloc is
 * loaded, and asked for blocks by what dlsym gives. What it gives out at once may be too early for
 * the profiler; what it gives out after the second go byte may not. The loader allocates too, so
 * only the leaks of the summary are exact, and the blocks of `take_back`: BACK_COUNT of BACK_BYTES.
 *
 * dlopened LIBRARY             does that
 * dlopened LIBRARY exec        does that, and once more after executing itself, which says ready again
 * dlopened LIBRARY NUMBER      so many forked children do that, each for itself; the summary is of all */
#include "victim.h"

#include <dlfcn.h>
#include <sys/wait.h>

enum { MOST = 16, BACK_COUNT = 10, BACK_BYTES = 5000 };

static struct site by_given = {.frames = "take_given,late"};
static struct site by_given_realloc = {.frames = "take_given_again,late"};
static struct site by_own = {.frames = "take_own,late"};

static void *(*given_malloc)(size_t size);
static void *(*given_realloc)(void *block, size_t size);
static void (*given_free)(void *block);

static void *function(void *library, const char *name) {
    void *found = dlsym(library, name);
    if (!found) die(dlerror());
    return found;
}

FRAME static void take_early(void) {
    for (int i = 0; i < 10; i++)
        if (!given_malloc(7777)) die("the early allocation failed");
}

FRAME static void load(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) die(dlerror());
    given_malloc = function(library, "malloc");
    given_realloc = function(library, "realloc");
    given_free = function(library, "free");
    if (given_malloc == malloc) die("the library has no malloc of its own");
    take_early();
}

FRAME static void take_given(size_t size) { keep(&by_given, given_malloc(size), size); }

FRAME static void take_given_again(size_t size) {
    keep(&by_given_realloc, given_realloc(given_malloc(16), size), size);
    got(16), gone(16);
}

FRAME static void take_back(void) {
    given_free(given_malloc(BACK_BYTES));
    got(BACK_BYTES), gone(BACK_BYTES);
}

FRAME static void take_own(size_t size) { keep(&by_own, malloc(size), size); }

FRAME static void late(void) {
    for (size_t i = 0; i < 40; i++) {
        take_given(100 + i);
        take_given_again(300 + i);
        take_own(1000 + i);
    }
    for (int i = 0; i < BACK_COUNT; i++) take_back();
}

static void say(const char *line) {
    static struct text text;
    put(&text, line);
    send_text(&text);
}

static void get(int from) {
    char byte;
    if (read(from, &byte, 1) != 1) die("a pipe is broken");
}

static void tell(int to) {
    if (write(to, "g", 1) != 1) die("a pipe is broken");
}

/* What `late` does is done in children, each of which is told when. */
static void work_in_children(const char *library, int count) {
    int down[2], up[2], leave[2];
    if (pipe(down) || pipe(up) || pipe(leave)) die("there is no pipe");
    for (int i = 0; i < count; i++) {
        pid_t child = fork();
        if (child < 0) die("fork failed");
        if (child == 0) {
            load(library);
            tell(up[1]);
            get(down[0]);
            late();
            tell(up[1]);
            get(leave[0]);
            _exit(0);
        }
    }
    close(up[1]);
    for (int i = 0; i < count; i++) get(up[0]);
    say("loaded\n");
    if (!wait_for_byte()) _exit(0);
    for (int i = 0; i < count; i++) tell(down[1]);
    for (int i = 0; i < count; i++) get(up[0]);
    /* The same, without memory. */
    for (size_t i = 0; i < 40 * (size_t)count; i++) {
        keep(&by_given, &by_given, 100 + i % 40);
        keep(&by_given_realloc, &by_given, 300 + i % 40);
        keep(&by_own, &by_given, 1000 + i % 40);
    }
    summary("dlopened", &by_given, &by_given_realloc, &by_own, NULL);
    wait_for_byte();
    for (int i = 0; i < count; i++) tell(leave[1]);
    while (wait(NULL) > 0) continue;
}

int main(int argc, char **argv) {
    ready();
    int count = argc > 2 ? atoi(argv[2]) : 0;
    if (count > 0) {
        work_in_children(argv[1], count);
        return 0;
    }
    load(argv[1]);
    say("loaded\n");
    if (!wait_for_byte()) return 0;
    late();
    summary("dlopened", &by_given, &by_given_realloc, &by_own, NULL);
    int more = wait_for_byte();
    if (more && argc > 2) {
        execl("/proc/self/exe", argv[0], argv[1], NULL);
        die("exec failed");
    }
    return 0;
}

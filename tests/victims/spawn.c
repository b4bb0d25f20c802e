/* vfork and exec, as posix_spawn does: for a moment another process shares the victim's memory.
 * Its exec is not the victim's, and the new program's blocks are not either. */
#include "victim.h"
#include <sys/wait.h>

static struct site by_left = {.frames = "leak_malloc,left,main"};
static struct site by_right = {.frames = "leak_malloc,right,main"};

FRAME static void *leak_malloc(size_t size) { return malloc(size); }

FRAME static void left(void) {
    for (size_t i = 1; i <= 10; i++) keep(&by_left, leak_malloc(i * 9), i * 9);
}

FRAME static void right(void) {
    for (size_t i = 1; i <= 10; i++) keep(&by_right, leak_malloc(i * 8), i * 8);
}

FRAME static void run(char *program) {
    int status;
    pid_t pid = vfork();
    if (pid == 0) {
        execl(program, program, "child", NULL);
        _exit(1);
    }
    if (pid < 0) die("vfork failed");
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) die("waitpid failed");
    if (status) die("the child failed");
}

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) {
        for (size_t i = 0; i < 100; i++) {
            if (!leak_malloc(777)) return 1;
            free(leak_malloc(888));
        }
        return 0;
    }
    ready();
    left();
    for (int i = 0; i < 3; i++) {
        run("/proc/self/exe");
        right();
    }
    return finish("spawn", &by_left, &by_right, NULL);
}

/* fork: the child has a copy of the parent's blocks, and what it does to them and beside them
 * must not be counted for the parent. */
#include "victim.h"
#include <sys/wait.h>

enum { BLOCKS = 30 };
static void *blocks[BLOCKS];
static struct site before_fork = {.frames = "leak_malloc,before,main"};
static struct site after_fork = {.frames = "leak_malloc,after,main"};

FRAME static void *leak_malloc(size_t size) { return malloc(size); }

FRAME static void before(void) {
    for (int i = 0; i < BLOCKS; i++) keep(&before_fork, blocks[i] = leak_malloc(111), 111);
}

FRAME static void after(void) {
    for (int i = 0; i < BLOCKS; i++) {
        keep(&after_fork, leak_malloc(222), 222);
        void *block = leak_malloc(5);
        got(5);
        free(block);
        gone(5);
    }
}

FRAME static void child(void) {
    for (int i = 0; i < BLOCKS; i++) {
        free(blocks[i]);
        if (!leak_malloc(333)) _exit(1);
        free(leak_malloc(444));
    }
    _exit(0);
}

FRAME static void wait_for(pid_t pid) {
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) die("waitpid failed");
    if (status) die("the child failed");
}

int main(void) {
    ready();
    before();
    pid_t pid = fork();
    if (pid == 0) child();
    if (pid < 0) die("fork failed");
    after();
    wait_for(pid);
    after();
    return finish("fork", &before_fork, &after_fork, NULL);
}

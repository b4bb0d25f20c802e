/* A server that forks: each worker leaks as many blocks as its number, frees some that it has from its
 * parent, and says on a line what it did. `workers N` keeps them until the first process is let go;
 * `workers N brief` has each of them come and go before the next, `workers N exec [PATH]` has each execute the
 * program anew before it works, `workers N kill` kills each. */
#include "victim.h"
#include <signal.h>
#include <sys/wait.h>

enum { BEFORE = 40, FREED = 5, BYTES = 1000 };
static void *blocks[BEFORE];
/* Where a worker says that it is done. */
static int said = 1;
static struct site before_fork = {.frames = "leak_malloc,before,main"};
static struct site in_worker = {.frames = "leak_malloc,work,worker"};

FRAME static void *leak_malloc(size_t size) { return malloc(size); }

FRAME static void before(void) {
    for (int i = 0; i < BEFORE; i++) keep(&before_fork, blocks[i] = leak_malloc(111), 111);
}

FRAME static void work(uint64_t number) {
    for (uint64_t i = 0; i < number; i++) {
        if (!leak_malloc(BYTES)) _exit(1);
        free(leak_malloc(10));
    }
    for (int i = 0; i < FREED; i++) free(blocks[i]);
}

/* What it did: PID, live bytes and blocks, allocated bytes and blocks, inherited blocks freed. */
FRAME static void worker(uint64_t number) {
    static struct text text;
    int inherited = blocks[0] ? FREED : 0;
    work(number);
    put(&text, "worker");
    uint64_t did[] = {(uint64_t)getpid(), number * BYTES, number, number * (BYTES + 10), 2 * number, (uint64_t)inherited};
    for (size_t i = 0; i < sizeof did / sizeof *did; i++) {
        put(&text, " ");
        put_number(&text, did[i]);
    }
    put(&text, "\n");
    send_text(&text);
    if (write(said, "", 1) != 1) _exit(1);
}

int main(int argc, char **argv) {
    if (argc > 3 && !strcmp(argv[1], "worker")) {
        said = atoi(argv[3]);
        worker((uint64_t)atoi(argv[2]));
        _exit(0);
    }
    uint64_t count = argc > 1 ? (uint64_t)atoi(argv[1]) : 3;
    const char *how = argc > 2 ? argv[2] : "";
    int wait_here[2], done[2];
    if (pipe(wait_here) || pipe(done)) die("pipe failed");
    said = done[1];
    ready();
    before();
    for (uint64_t number = 1; number <= count; number++) {
        pid_t pid = fork();
        if (pid < 0) die("fork failed");
        if (!pid) {
            if (!strcmp(how, "exec")) {
                static struct text text, place;
                put_number(&text, number);
                put_number(&place, (uint64_t)said);
                text.bytes[text.len] = place.bytes[place.len] = 0;
                execl(argc > 3 ? argv[3] : "/proc/self/exe", "workers", "worker", text.bytes, place.bytes, NULL);
                _exit(1);
            }
            worker(number);
            if (!strcmp(how, "kill")) kill(getpid(), SIGKILL);
            if (*how) _exit(0);
            close(wait_here[1]);
            char byte;
            while (read(wait_here[0], &byte, 1) < 0 && errno == EINTR) {}
            _exit(0);
        }
        if (*how && waitpid(pid, NULL, 0) != pid) die("waitpid failed");
    }
    for (uint64_t number = 0; number < count; number++) {
        char byte;
        if (read(done[0], &byte, 1) != 1) die("a worker has failed");
    }
    int status = finish("workers", &before_fork, NULL);
    close(wait_here[1]);
    while (wait(NULL) > 0) {}
    (void)in_worker;
    return status;
}

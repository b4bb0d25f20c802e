/* Processes that come from one another in every way there is. Each of them allocates and frees, says its
 * name and its PID on a line, and stays until the first one leaves.
 *
 * `family`: at each go byte a child, a grandchild, a child that executes another program, one of which
 * another thread does that, and one by vfork and exec.
 * `family siblings`: a child whose children come and go on one processor, but for three that stay.
 * `family busy`: a child that goes on allocating and freeing.
 * `family storm`: until the next byte children that fork once more and end; then a line says how many there were and
 * how many did not end well. */
#include "victim.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>

enum { STAY = 3, COME_AND_GO = 300 };
/* The first process alone has the end that is written to. */
static int waiting, leaving;

FRAME static void work(int turns) {
    for (int i = 0; i < turns; i++) {
        free(malloc(100));
        free(calloc(10, 10));
    }
}

static void stay(const char *name) {
    static struct text text;
    char byte;
    work(10);
    put(&text, name);
    put(&text, " ");
    put_number(&text, (uint64_t)getpid());
    put(&text, "\n");
    send_text(&text);
    close(leaving);
    while (read(waiting, &byte, 1) < 0 && errno == EINTR) {}
    _exit(0);
}

/* This program, which stays under that name. */
static void execute(const char *name) {
    static struct text number;
    number.len = 0; /* by vfork it is the parent's */
    put_number(&number, (uint64_t)waiting);
    number.bytes[number.len] = 0;
    execl("/proc/self/exe", "family", "stay", name, number.bytes, NULL);
    _exit(1);
}

static void *execute_by_thread(void *nothing) {
    (void)nothing;
    execute("exec_by_thread");
    return NULL;
}

static pid_t forked(void) {
    pid_t pid = fork();
    if (pid < 0) die("fork failed");
    return pid;
}

static void family(void) {
    if (!forked()) {
        if (!forked()) stay("grandchild");
        stay("child");
    }
    if (!forked()) execute("exec");
    if (!forked()) {
        pthread_t thread;
        close(leaving);
        if (pthread_create(&thread, NULL, execute_by_thread, NULL)) die("pthread_create failed");
        for (;;) pause();
    }
    pid_t pid = vfork();
    if (!pid) {
        close(leaving); /* its own copy */
        execute("spawned");
    }
    if (pid < 0) die("vfork failed");
}

static void sibling(int turns) {
    for (int i = 0; i < turns; i++) {
        work(1);
        sched_yield();
    }
}

static void siblings(void) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    if (sched_setaffinity(0, sizeof one, &one)) die("sched_setaffinity failed");
    if (forked()) return;
    for (int i = 0; i < STAY; i++)
        if (!forked()) {
            sibling(COME_AND_GO);
            stay("sibling");
        }
    close(leaving);
    for (int i = 0; i < COME_AND_GO; i++)
        if (!forked()) {
            sibling(2);
            _exit(0);
        }
    while (wait(NULL) > 0) {}
    _exit(0);
}

static void busy(void) {
    if (forked()) return;
    static struct text text;
    struct pollfd the_end = {.fd = waiting};
    close(leaving);
    put(&text, "busy ");
    put_number(&text, (uint64_t)getpid());
    put(&text, "\n");
    send_text(&text);
    do work(100);
    while (!poll(&the_end, 1, 0));
    _exit(0);
}

static int ended_well(pid_t pid) {
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) die("waitpid failed");
    return !status;
}

static void storm(void) {
    static struct text text;
    struct pollfd stdin_pipe = {.fd = 0, .events = POLLIN};
    uint64_t children = 0, failures = 0;
    do {
        pid_t pid = forked();
        if (!pid) {
            work(3);
            pid_t grandchild = forked();
            work(3);
            _exit(grandchild && !ended_well(grandchild));
        }
        work(3);
        failures += !ended_well(pid);
        children++;
    } while (!poll(&stdin_pipe, 1, 0));
    wait_for_byte();
    put_number(&text, children);
    put(&text, " ");
    put_number(&text, failures);
    put(&text, "\n");
    send_text(&text);
}

int main(int argc, char **argv) {
    if (argc == 4) {
        waiting = atoi(argv[3]);
        leaving = -1;
        stay(argv[2]);
    }
    int ends[2];
    if (pipe(ends)) die("pipe failed");
    waiting = ends[0];
    leaving = ends[1];
    if (fcntl(leaving, F_SETFD, FD_CLOEXEC)) die("fcntl failed");
    ready();
    do {
        if (argc == 1)
            family();
        else if (!strcmp(argv[1], "storm"))
            storm();
        else if (!strcmp(argv[1], "busy"))
            busy();
        else
            siblings();
    } while (wait_for_byte());
    return 0;
}

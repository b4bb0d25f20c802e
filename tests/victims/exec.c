/* exec: what this program leaks is gone with its address space. The next program is the victim
 * `malloc` beside it; it says `ready` again, waits for a byte again, and its summary is of its own
 * blocks alone. */
#include "victim.h"

static struct site gone_with_exec = {.frames = "leak_before,main"};

FRAME static void leak_before(size_t size) { keep(&gone_with_exec, malloc(size), size); }

int main(void) {
    static char path[4096];
    ssize_t len = readlink("/proc/self/exe", path, sizeof path - 16);
    if (len < 0) die("readlink of /proc/self/exe failed");
    strcpy(strrchr(path, '/') + 1, "malloc");
    ready();
    for (size_t i = 1; i <= 20; i++) leak_before(i * 1000);
    execl(path, path, NULL);
    die("exec of the victim `malloc` failed");
}

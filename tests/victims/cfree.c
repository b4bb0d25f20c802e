/* cfree: free's old name. glibc keeps it for programs linked long ago: at the same address as
 * free, under a version that new programs cannot link to, so it is looked up. musl and the static
 * glibc have none. */
#include "victim.h"
#include <dlfcn.h>

static struct site left_over = {.frames = "leak_malloc,half,main"};

FRAME static void *leak_malloc(size_t size) { return malloc(size); }

FRAME static void half(void (*cfree)(void *)) {
    for (int i = 0; i < 40; i++) {
        void *block = leak_malloc(200);
        if (i % 2) {
            keep(&left_over, block, 200);
        } else {
            got(200);
            cfree(block);
            gone(200);
        }
    }
}

int main(void) {
    void *old = dlvsym(RTLD_DEFAULT, "cfree", "GLIBC_2.2.5");
    if (!old) die("this libc has no cfree");
    ready();
    half((void (*)(void *))old);
    return finish("cfree", &left_over, NULL);
}

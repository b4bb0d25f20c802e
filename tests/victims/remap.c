/* Maps and unmaps at random: `remap SEED THREADS STEPS`. At each byte each thread makes so many system calls,
 * one after the other, then a line is written. Threads have a window of addresses each in which they map over
 * and unmap what they like, and share the rest of the address space, where the kernel gives the same
 * addresses to one after the other. Nothing is in a ledger: what is mapped, the kernel tells. */
#include "victim.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>

enum { PAGE = 4096, WINDOW = 256, SLOTS = 16, MOST_THREADS = 8 };

struct slot {
    char *at;
    size_t pages;
};

struct worker {
    pthread_t thread;
    uint64_t seed;
    char *window;
    struct slot slots[SLOTS];
    void *blocks[SLOTS];
};

static struct worker workers[MOST_THREADS];
static pthread_barrier_t begin, end;
static unsigned steps;
static int file;

static unsigned draw(struct worker *self, unsigned below) {
    self->seed = self->seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(self->seed >> 33) % below;
}

/* Memory of the process alone most times; else shared, of a file, or for nobody to touch. */
FRAME static char *map(struct worker *self, char *at, size_t pages, int fixed) {
    int prot = draw(self, 4) ? PROT_READ | PROT_WRITE : PROT_NONE;
    switch (draw(self, 8)) {
    case 0: return mmap(at, pages * PAGE, prot, fixed | MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    case 1: return mmap(at, pages * PAGE, PROT_READ, fixed | MAP_PRIVATE, file, 0);
    default: return mmap(at, pages * PAGE - draw(self, PAGE), prot, fixed | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
}

/* In its window: over whatever is there. */
static void in_window(struct worker *self) {
    size_t from = draw(self, WINDOW - 32), pages = 1 + draw(self, 24);
    char *at = self->window + from * PAGE;
    switch (draw(self, 6)) {
    case 0:
    case 1: map(self, at, pages, MAP_FIXED); break;
    case 2: munmap(at, pages * PAGE - draw(self, PAGE)); break;
    case 3: mprotect(at, pages * PAGE, PROT_READ); break;
    case 4: madvise(at, pages * PAGE, draw(self, 2) ? MADV_DONTNEED : MADV_FREE); break;
    case 5: {
        size_t now = 1 + draw(self, 24), gap = pages > now ? pages : now;
        size_t to = (from + gap + draw(self, WINDOW - 2 * gap)) % (WINDOW - now);
        char *target = self->window + to * PAGE;
        int apart = target >= at + pages * PAGE || target + now * PAGE <= at;
        if (apart && draw(self, 2)) {
            if (mremap(at, pages * PAGE, now * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target) == MAP_FAILED)
                munmap(target, now * PAGE); /* Whether it is gone, kernels do not agree. */
        } else if (mremap(at, pages * PAGE, now * PAGE, 0) == MAP_FAILED && pages > now) {
            munmap(at, pages * PAGE); /* The same of the part that is cut off. */
        }
    }
    }
}

/* Where the kernel likes. */
static void anywhere(struct worker *self) {
    struct slot *slot = &self->slots[draw(self, SLOTS)];
    if (!slot->at) {
        slot->pages = 1 + draw(self, 60);
        slot->at = map(self, NULL, slot->pages, 0);
        if (slot->at == MAP_FAILED) die("mmap failed");
        return;
    }
    size_t pages = 1 + draw(self, 60);
    switch (draw(self, 3)) {
    case 0: {
        char *at = mremap(slot->at, slot->pages * PAGE, pages * PAGE, MREMAP_MAYMOVE);
        if (at != MAP_FAILED) *slot = (struct slot){at, pages};
        break;
    }
    case 1: /* A part. */
        if (slot->pages > 2) {
            munmap(slot->at, (slot->pages - 1) * PAGE);
            munmap(slot->at + (slot->pages - 1) * PAGE, PAGE);
            slot->at = NULL;
            break;
        } /* fall through */
    default:
        munmap(slot->at, slot->pages * PAGE);
        slot->at = NULL;
    }
}

static void step(struct worker *self) {
    switch (draw(self, 12)) {
    case 0: mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); break;
    case 1: munmap(self->window + 1, PAGE); break;
    case 2: {
        void **block = &self->blocks[draw(self, SLOTS)];
        free(*block);
        *block = malloc(draw(self, 2) ? draw(self, 3000) : draw(self, 400000));
        break;
    }
#ifdef __GLIBC__
    case 3:
        if (self == workers) sbrk((int)draw(self, 40000) - 18000);
        break;
#endif
    case 4:
    case 5:
    case 6:
    case 7: anywhere(self); break;
    default: in_window(self);
    }
}

static void *work(void *worker) {
    struct worker *self = worker;
    /* Where the kernel maps nothing by itself, or malloc's memory would be mapped over. */
    self->window = (char *)0x100000000000 + (self - workers) * (1L << 30);
    for (;;) {
        pthread_barrier_wait(&begin);
        for (unsigned i = 0; i < steps; i++) step(self);
        pthread_barrier_wait(&end);
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc < 4) die("remap SEED THREADS STEPS");
    unsigned threads = (unsigned)atoi(argv[2]);
    if (threads > MOST_THREADS) die("too many threads");
    steps = (unsigned)atoi(argv[3]);
    file = open("/proc/self/exe", O_RDONLY);
    pthread_barrier_init(&begin, NULL, threads + 1);
    pthread_barrier_init(&end, NULL, threads + 1);
    for (unsigned i = 0; i < threads; i++) {
        workers[i].seed = (uint64_t)atoi(argv[1]) * 1000 + i;
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i])) die("pthread_create failed");
    }
    ready();
    do {
        pthread_barrier_wait(&begin);
        pthread_barrier_wait(&end);
        if (write(1, "done\n", 5) != 5) die("stdout is gone");
    } while (wait_for_byte());
    return 0;
}

/* A heap whose state is known: after each byte on stdin it does one more step of the scenario that its argument
 * names, and writes a line with where its table of live blocks is, how many entries that has, and what the allocator says of
 * itself (glibc's mallinfo2; zeros elsewhere). The table is read from outside. */
#include "victim.h"
#include <malloc.h>
#include <pthread.h>
#include <sched.h>

enum { MAX_BLOCKS = 1 << 20, THREADS = 4 };

/* As LiveBlock of leakprobe: address, size, stack. An address of 0 is a block that was freed. */
static struct entry { uint64_t address, size, stack; } table[MAX_BLOCKS];
static uint64_t count, random_state = 88172645463325252ull;
static pthread_barrier_t step_begins, step_ends;

static uint64_t next_random(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

/* A block that is in the table, and written: its pages are there. */
FRAME static struct entry *allocate(size_t size, uint64_t stack) {
    uint64_t index = __atomic_fetch_add(&count, 1, __ATOMIC_SEQ_CST);
    if (index >= MAX_BLOCKS) die("the table is full");
    void *block = malloc(size);
    if (!block) die("malloc failed");
    memset(block, 0xa5, size);
    table[index] = (struct entry){(uintptr_t)block, size, stack};
    return &table[index];
}

FRAME static void release(struct entry *entry) {
    void *block = (void *)(uintptr_t)entry->address;
    entry->address = 0;
    free(block);
}

static void tell(void) {
    static struct text text;
    put(&text, "{\"victim\":\"heaps\"");
    put_field(&text, "table", (uintptr_t)table);
    put_field(&text, "count", count);
#ifdef __GLIBC__
    struct mallinfo2 info = mallinfo2();
    put_field(&text, "arena", info.arena);
    put_field(&text, "fordblks", info.fordblks);
    put_field(&text, "fsmblks", info.fsmblks);
    put_field(&text, "hblks", info.hblks);
    put_field(&text, "hblkhd", info.hblkhd);
#endif
    put(&text, "}\n");
    send_text(&text);
}

/* The step is done: says so, and waits for the next one. */
static void next_step(void) {
    tell();
    if (!wait_for_byte()) _exit(0);
}

static void mixed(uint64_t blocks, size_t largest) {
    uint64_t first = count;
    for (uint64_t i = 0; i < blocks; i++) allocate(next_random() % largest, 1 + i % 3);
    for (uint64_t i = first; i < first + blocks; i++)
        if (next_random() % 2) release(&table[i]);
}

/* Of `every` blocks one stays, which is stack 7's; the last block of all is stack 8's. */
static void comb(uint64_t blocks, size_t size, uint64_t every) {
    for (uint64_t i = 0; i < blocks; i++) allocate(size, i % every == every / 2 ? 7 : 6);
    allocate(size, 8);
    for (uint64_t i = 0; i < blocks; i++)
        if (table[i].stack == 6) release(&table[i]);
}

static void *mixed_thread(void *number) {
    (void)number;
    for (;;) {
        pthread_barrier_wait(&step_begins);
        /* One after the other, so that the random numbers are the same every time. */
        static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
        pthread_mutex_lock(&one);
        mixed(20000, 3000);
        pthread_mutex_unlock(&one);
        pthread_barrier_wait(&step_ends);
    }
    return NULL;
}

static void *churning_thread(void *number) {
    static void *blocks[THREADS][4096];
    void **mine = blocks[(intptr_t)number];
    uint64_t random = 1 + (uint64_t)(intptr_t)number;
    for (;;) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        uint64_t index = random >> 52;
        free(mine[index]);
        uint64_t size = 1 + (random >> 20 & 1023);
        mine[index] = malloc((random >> 40 & 1023) ? size : size * 400);
        if (mine[index]) memset(mine[index], 1, 1);
    }
    return NULL;
}

static void start(void *(*run)(void *)) {
    pthread_barrier_init(&step_begins, NULL, THREADS + 1);
    pthread_barrier_init(&step_ends, NULL, THREADS + 1);
    for (intptr_t i = 0; i < THREADS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, run, (void *)i)) die("pthread_create failed");
    }
}

static void large(void) {
    for (int i = 0; i < 24; i++) {
        struct entry *entry = allocate(200000 + (size_t)i * 70001, 2);
        if (i % 5 == 4) release(entry);
    }
    void *aligned;
    if (posix_memalign(&aligned, 1 << 16, 300000)) die("posix_memalign failed");
    memset(aligned, 1, 300000);
    table[count++] = (struct entry){(uintptr_t)aligned, 300000, 3};
    /* Never written: takes address space alone. */
    void *empty = malloc(8 << 20);
    table[count++] = (struct entry){(uintptr_t)empty, 8 << 20, 4};
}

/* Overwrites all of the heap's headers from the middle block on. */
static void rubbish(void) {
    for (int i = 0; i < 50000; i++) allocate(100, 5);
    unsigned char *from = (unsigned char *)(uintptr_t)table[25000].address;
    unsigned char *to = (unsigned char *)(uintptr_t)table[49999].address;
    if (from > to) {
        unsigned char *other = from;
        from = to;
        to = other;
    }
    while (from < to) *from++ = (unsigned char)next_random();
}

int main(int argc, char **argv) {
    const char *scenario = argc > 1 ? argv[1] : "";
    if (!strcmp(scenario, "threads")) start(mixed_thread);
    ready();
    if (!strcmp(scenario, "mixed")) {
        for (;;) {
            mixed(30000, 4000);
            next_step();
        }
    } else if (!strcmp(scenario, "comb")) {
        /* `comb BLOCKS SIZE EVERY` */
        if (argc != 5) die("comb takes three numbers");
        comb((uint64_t)atol(argv[2]), (size_t)atol(argv[3]), (uint64_t)atol(argv[4]));
        next_step();
#ifdef __GLIBC__
        malloc_trim(0);
        next_step();
#endif
    } else if (!strcmp(scenario, "threads")) {
        for (;;) {
            pthread_barrier_wait(&step_begins);
            pthread_barrier_wait(&step_ends);
            next_step();
        }
    } else if (!strcmp(scenario, "large")) {
        large();
        next_step();
    } else if (!strcmp(scenario, "small")) {
        /* 7 of each size go to the thread's cache, 3 to the fast bins. */
        for (int i = 0; i < 30; i++) allocate(24 + (size_t)(i / 10) * 16, 1);
        allocate(5000, 1);
        for (int i = 0; i < 30; i++) release(&table[i]);
        next_step();
    } else if (!strcmp(scenario, "foreign")) {
        /* Memory from `brk` that is somebody else's. */
        mixed(2000, 1000);
        unsigned char *other = sbrk(1 << 20);
        memset(other, 0x33, 1 << 20);
        mixed(20000, 1000);
        next_step();
    } else if (!strcmp(scenario, "no-brk")) {
        /* The program break cannot move: glibc maps pieces instead. */
        mixed(2000, 1000);
        unsigned char *page = sbrk(0);
        page += -(uintptr_t)page % 4096;
        static const char line[] = "the page above the heap cannot be mapped";
        extern void *mmap(void *, size_t, int, int, int, off_t);
        if (mmap(page, 4096, 0, 0x100022, -1, 0) != page) die(line);
        mixed(20000, 1000);
        next_step();
    } else if (!strcmp(scenario, "rubbish")) {
        rubbish();
        /* Whoever asks the allocator now may be killed by it. */
        static struct text text;
        put(&text, "{\"victim\":\"heaps\"");
        put_field(&text, "table", (uintptr_t)table);
        put_field(&text, "count", count);
        put(&text, "}\n");
        send_text(&text);
        wait_for_byte();
        _exit(0);
    } else if (!strcmp(scenario, "churn")) {
        start(churning_thread);
        next_step();
        _exit(0);
    } else if (!strcmp(scenario, "unrecorded")) {
        /* `unrecorded BLOCKS SIZE`: none of them in the table. */
        if (argc != 4) die("unrecorded takes two numbers");
        for (long i = atol(argv[2]); i > 0; i--) memset(malloc((size_t)atol(argv[3])), 1, 8);
        next_step();
    } else {
        die("no such scenario");
    }
    tell();
    wait_for_byte();
    return 0;
}

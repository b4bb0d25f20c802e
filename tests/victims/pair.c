/* What a pair of malloc(64) and free costs: `pair THREADS PAIRS|SECONDSs FRAMES`. At each go byte
 * every thread runs PAIRS pairs (or as many as it can in SECONDS, a decimal number with an `s`),
 * and one line of JSON says what a pair took, by the clock and in CPU time; at the end of stdin it
 * leaves. In one process, so that the same code can be measured unprobed and probed.
 *
 * FRAMES, 3 at the least, counts from the caller of malloc to main (in thread 0) or to the
 * thread's function, both included; what a libc has below main is not counted. Without arguments:
 * 1 thread, 100000 pairs, 5 frames. */
#include "victim.h"
#include <pthread.h>
#include <time.h>

enum { MAX_THREADS = 64, SIZE = 64, BATCH = 64 };
static unsigned long threads = 1, pairs = 100000, frames = 5;
static uint64_t limit_ns;
static pthread_barrier_t started, finished;
static uint64_t done_pairs[MAX_THREADS], took_ns[MAX_THREADS], cpu_ns[MAX_THREADS];

static uint64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static uint64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

static inline __attribute__((always_inline)) void run(unsigned long count) {
    for (unsigned long i = 0; i < count; i++) {
        void *block = malloc(SIZE);
        __asm__ volatile("" : : "r"(block) : "memory");
        free(block);
    }
}

/* The caller of malloc. */
FRAME static void loop(unsigned long me) {
    uint64_t cpu_start = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    uint64_t start = now_ns(), end = start, done = 0;
    if (limit_ns) {
        for (; end - start < limit_ns; end = now_ns(), done += BATCH) run(BATCH);
    } else {
        run(pairs);
        done = pairs;
        end = now_ns();
    }
    done_pairs[me] = done;
    took_ns[me] = end - start;
    cpu_ns[me] = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_start;
}

/* `left` + 1 frames. */
FRAME static void descend(unsigned long me, unsigned long left) {
    if (left)
        descend(me, left - 1);
    else
        loop(me);
}

FRAME static void *thread(void *number) {
    for (;;) {
        pthread_barrier_wait(&started);
        descend((unsigned long)(uintptr_t)number, frames - 3);
        pthread_barrier_wait(&finished);
    }
    return NULL;
}

static void report(void) {
    static struct text text;
    uint64_t all_pairs = 0, all_ns = 0, all_cpu_ns = 0;
    for (unsigned long i = 0; i < threads; i++) {
        all_pairs += done_pairs[i];
        all_ns += took_ns[i];
        all_cpu_ns += cpu_ns[i];
    }
    uint64_t picoseconds = (uint64_t)((double)all_ns * 1000 / (double)all_pairs);
    put(&text, "{\"victim\":\"pair\"");
    put_field(&text, "threads", threads);
    put_field(&text, "frames", frames);
    put_field(&text, "pairs", all_pairs);
    put_field(&text, "thread_ns", all_ns);
    put_field(&text, "cpu_ns", all_cpu_ns);
    put_field(&text, "ns_per_pair", picoseconds / 1000);
    /* Three decimals. */
    put(&text, ".");
    for (uint64_t part = picoseconds % 1000, digit = 100; digit; digit /= 10)
        put_number(&text, part / digit % 10);
    put(&text, "}\n");
    send_text(&text);
}

int main(int argc, char **argv) {
    if (argc > 1) threads = strtoul(argv[1], NULL, 10);
    if (argc > 2) {
        char *end;
        double number = strtod(argv[2], &end);
        if (*end == 's') limit_ns = (uint64_t)(number * 1e9);
        pairs = (unsigned long)number;
    }
    if (argc > 3) frames = strtoul(argv[3], NULL, 10);
    if (!threads || threads > MAX_THREADS || frames < 3 || (!limit_ns && !pairs))
        die("usage: pair [THREADS [PAIRS|SECONDSs [FRAMES]]], up to 64 threads, 3 frames or more");
    pthread_barrier_init(&started, NULL, (unsigned)threads);
    pthread_barrier_init(&finished, NULL, (unsigned)threads);
    for (uintptr_t i = 1; i < threads; i++) {
        pthread_t id;
        if (pthread_create(&id, NULL, thread, (void *)i)) die("pthread_create failed");
    }
    ready();
    do {
        pthread_barrier_wait(&started);
        descend(0, frames - 3);
        pthread_barrier_wait(&finished);
        report();
    } while (wait_for_byte());
    return 0;
}

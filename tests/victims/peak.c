/* A spike: much is allocated and freed, and what stays is little. Between the two it says `peak` and waits
 * for a byte. `peak THREADS`: before that so many threads allocate and free at the same time, more than
 * there are processors, so that they interrupt one another. */
#include <pthread.h>

#include "victim.h"

enum { MAX_THREADS = 16, TURNS = 4000, HELD = 8, HELD_SIZE = 5000 };
static pthread_barrier_t started, finished;

enum { BASE = 300, BASE_SIZE = 1000, SPIKE = 12800, SPIKE_SIZE = 4096, REST = 1024, REST_SIZE = 1024 };

static struct site kept = {.frames = "base,main"};
static struct site leaked = {.frames = "rest,main"};
static void *blocks[SPIKE];

/* There before the peak, at it, and after it. */
FRAME static void base(void) {
    for (int i = 0; i < BASE; i++) keep(&kept, malloc(BASE_SIZE), BASE_SIZE);
}

/* 50 MiB. */
FRAME static void spike(void) {
    for (int i = 0; i < SPIKE; i++) {
        if (!(blocks[i] = malloc(SPIKE_SIZE))) die("the victim's allocation failed");
        got(SPIKE_SIZE);
    }
}

/* 1 MiB, afterwards. */
FRAME static void rest(void) {
    for (int i = 0; i < REST; i++) keep(&leaked, malloc(REST_SIZE), REST_SIZE);
}

/* Of blocks that are given out and given back nothing is left when all threads are done. */
FRAME static void churn(void) {
    void *held[HELD];
    for (int turn = 0; turn < TURNS; turn++) {
        for (int i = 0; i < HELD; i++) {
            if (!(held[i] = malloc(HELD_SIZE))) die("the victim's allocation failed");
            got(HELD_SIZE);
        }
        for (int i = 0; i < HELD; i++) {
            gone(HELD_SIZE);
            free(held[i]);
        }
    }
}

static void *thread(void *unused) {
    pthread_barrier_wait(&started);
    churn();
    pthread_barrier_wait(&finished);
    return unused;
}

int main(int argc, char **argv) {
    static struct text text;
    int threads = argc > 1 ? atoi(argv[1]) : 0;
    if (threads > MAX_THREADS) die("too many threads");
    pthread_barrier_init(&started, NULL, threads + 1);
    pthread_barrier_init(&finished, NULL, threads + 1);
    for (int i = 0; i < threads; i++) {
        pthread_t one;
        if (pthread_create(&one, NULL, thread, NULL)) die("the victim's thread cannot start");
    }
    ready();
    pthread_barrier_wait(&started);
    pthread_barrier_wait(&finished);
    base();
    spike();
    put(&text, "peak\n");
    send_text(&text);
    if (!wait_for_byte()) return 0;
    for (int i = 0; i < SPIKE; i++) {
        gone(SPIKE_SIZE);
        free(blocks[i]);
    }
    rest();
    return finish("peak", &kept, &leaked, NULL);
}

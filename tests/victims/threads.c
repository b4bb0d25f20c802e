/* Eight threads that allocate blocks for each other and free each other's, through queues. The
 * threads are made before the go byte and end after the summary, because making one allocates. */
#include "victim.h"
#include <pthread.h>
#include <sched.h>

enum { THREADS = 8, BLOCKS = 2000 };
static struct site by_even = {.frames = "leak_thread,make,even,thread"};
static struct site by_odd = {.frames = "leak_thread,make,odd,thread"};
static pthread_barrier_t started, worked, finished;
/* What a thread finds in its queue, in this order; each entry is written once. */
static void *queues[THREADS][BLOCKS];

static size_t size_of(int owner, int index) { return 16 + (size_t)(owner * 7 + index % 113); }

FRAME static void *leak_thread(size_t size) { return malloc(size); }

FRAME static void *make(struct site *site, int me, int index) {
    size_t size = size_of(me, index);
    /* Every twentieth is for nobody. */
    if (index % 20 == 0) keep(site, leak_thread(size), size);
    got(size);
    return leak_thread(size);
}

FRAME static void *even(int me, int index) { return make(&by_even, me, index); }
FRAME static void *odd(int me, int index) { return make(&by_odd, me, index); }

FRAME static void *thread(void *number) {
    int me = (int)(intptr_t)number, next = (me + 1) % THREADS, before = (me + THREADS - 1) % THREADS;
    pthread_barrier_wait(&started);
    for (int i = 0; i < BLOCKS; i++) {
        void *block = me % 2 ? odd(me, i) : even(me, i), *other;
        if (!block) die("the victim's allocation failed");
        __atomic_store_n(&queues[next][i], block, __ATOMIC_RELEASE);
        while (!(other = __atomic_load_n(&queues[me][i], __ATOMIC_ACQUIRE))) sched_yield();
        free(other);
        gone(size_of(before, i));
    }
    pthread_barrier_wait(&worked);
    pthread_barrier_wait(&finished);
    return NULL;
}

int main(void) {
    pthread_t threads[THREADS];
    pthread_barrier_init(&started, NULL, THREADS + 1);
    pthread_barrier_init(&worked, NULL, THREADS + 1);
    pthread_barrier_init(&finished, NULL, THREADS + 1);
    for (intptr_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, thread, (void *)i)) die("pthread_create failed");
    ready();
    pthread_barrier_wait(&started);
    pthread_barrier_wait(&worked);
    int result = finish("threads", &by_even, &by_odd, NULL);
    pthread_barrier_wait(&finished);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    return result;
}

/* Reads of committed bytes whose place on the devices is known, without the interpreter: a few threads read, compare
 * the sums of all blocks that they read, and answer.
 *
 * Python makes a *window* of pieces (streams.py): this part of the file lies there, its blocks have these sums; and it
 * says by `reads_take` which request may be answered from it.  It must keep the window, and with it what the pieces name,
 * until `reads_busy` says that no request needs it.  A request that cannot be answered (the device fails, a sum differs)
 * is given to `failed`, which takes the interpreter: from there on it is like any other.
 *
 * The threads' memory is what bounds this: each has ROOM bytes in one huge page, which saves direct I/O half of its
 * work.  Requests that wait for a thread are bounded by the kernel's own limit of what it reads ahead (max_background).
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 314
#include "sums.h"

#include <fuse_lowlevel.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define THREADS 8 /* at most: as many as requests were under way at once */
#define ROOM (2 << 20) /* of a huge page: a request of 1 MiB and the rest of the blocks that it begins and ends in */
#define UNIT 4096      /* of direct I/O */
#define PARTS 4        /* pieces that one request may touch */
#define ENDED 1024     /* answered requests that nobody has asked for; older ones are forgotten */

struct piece {         /* as streams.py makes it */
    int64_t start;     /* of the file: [start, end) */
    int64_t end;
    int64_t base;      /* of the file: where the page's payload would begin, perhaps negative */
    int64_t place;     /* of the device: where it does */
    int64_t payload;   /* bytes that the page has */
    int64_t first_sum; /* where in the window's sums those of the page begin */
    int64_t device;    /* a descriptor */
};

struct window {
    size_t count, block;
    const uint8_t *sums;
    unsigned int busy;
    struct piece pieces[];
};

struct job {
    struct job *next;
    struct window *window;
    fuse_req_t request;
    uint64_t handle;
    int64_t start;
    size_t size;
    int64_t end;
    double begun;
};

typedef void (*failed_handler)(fuse_req_t, unsigned long long handle, long long start, size_t size);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wanted = PTHREAD_COND_INITIALIZER, idle = PTHREAD_COND_INITIALIZER;
static struct job *first, **last = &first;
static unsigned int threads, busy;
static double ended[ENDED];
static unsigned int ended_count;
static uint64_t ended_bytes;
static failed_handler on_failed;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

/* The piece that holds a place of the file; `count` if none does. */
static size_t found(const struct window *window, int64_t at)
{
    size_t low = 0, high = window->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (window->pieces[middle].end <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low < window->count && window->pieces[low].start <= at ? low : window->count;
}

/* Reads the blocks around [start, end) of one piece to `room`; where [start, end) begins there, or NULL if it could not
 * be read or is not what it should be.  `used` gets the bytes of room that it took. */
static uint8_t *read_piece(const struct window *window, const struct piece *piece, int64_t start, int64_t end,
                           uint8_t *room, size_t *used)
{
    int64_t block = window->block, low = (start - piece->base) / block * block;
    int64_t high = (end - piece->base + block - 1) / block * block;
    if (high > piece->payload)
        high = piece->payload;
    size_t length = (high - low + UNIT - 1) / UNIT * UNIT;
    if (pread(piece->device, room, length, piece->place + low) != (ssize_t)length)
        return NULL;
    for (int64_t at = low; at < high; at += block) {
        uint8_t sum[SUM];
        block_sum(room + (at - low), high - at < block ? high - at : block, sum);
        if (memcmp(sum, window->sums + piece->first_sum + at / block * SUM, SUM) != 0)
            return NULL;
    }
    *used = length;
    return room + (start - piece->base - low);
}

static int answer(const struct job *job, uint8_t *room)
{
    struct iovec parts[PARTS];
    int count = 0;
    int64_t at = job->start;
    for (size_t next = found(job->window, at); at < job->end; next++) {
        const struct piece *piece = &job->window->pieces[next];
        int64_t stop = piece->end < job->end ? piece->end : job->end;
        size_t used;
        parts[count].iov_base = read_piece(job->window, piece, at, stop, room, &used);
        if (parts[count].iov_base == NULL)
            return 0;
        parts[count++].iov_len = stop - at;
        room += used;
        at = stop;
    }
    fuse_reply_iov(job->request, parts, count); /* an error: nobody waits for it any more */
    return 1;
}

static void *work(void *unused)
{
    (void)unused;
    uint8_t *room = mmap(NULL, 2 * ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room != MAP_FAILED) {
        room = (uint8_t *)(((uintptr_t)room + ROOM - 1) / ROOM * ROOM);
        madvise(room, ROOM, MADV_HUGEPAGE);
    }
    pthread_mutex_lock(&lock);
    for (;;) {
        while (first == NULL)
            pthread_cond_wait(&wanted, &lock);
        struct job *job = first;
        first = job->next;
        if (first == NULL)
            last = &first;
        pthread_mutex_unlock(&lock);
        int answered = room != MAP_FAILED && answer(job, room);
        if (!answered)
            on_failed(job->request, job->handle, job->start, job->size);
        double took = now() - job->begun;
        pthread_mutex_lock(&lock);
        if (answered) {
            ended_bytes += job->end - job->start;
            if (ended_count < ENDED)
                ended[ended_count++] = took;
        }
        job->window->busy--;
        if (--busy == 0)
            pthread_cond_broadcast(&idle);
        free(job);
    }
    return NULL;
}

/* Begins a thread if there may be more; all signals are for others. */
static void begin(void)
{
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&thread, &attributes, work, NULL) == 0)
        threads++;
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Who is asked for what could not be answered; any thread. */
void reads_install(failed_handler failed) { on_failed = failed; }

/* A window of pieces in order that do not overlap, and of blocks of `block` bytes; NULL if there is no memory.  The
 * sums are not copied. */
struct window *reads_window(const struct piece *pieces, size_t count, const uint8_t *sums, size_t block)
{
    struct window *window = malloc(sizeof *window + count * sizeof *pieces);
    if (window == NULL)
        return NULL;
    window->count = count;
    window->block = block;
    window->sums = sums;
    window->busy = 0;
    memcpy(window->pieces, pieces, count * sizeof *pieces);
    return window;
}

/* How many requests still need it. */
unsigned int reads_busy(struct window *window)
{
    pthread_mutex_lock(&lock);
    unsigned int count = window->busy;
    pthread_mutex_unlock(&lock);
    return count;
}

/* The end of one that nobody needs. */
void reads_free(struct window *window) { free(window); }

/* Answers a request for `size` bytes from `start` on, of which the file has those before `end`; 0 if the window does not
 * hold them all: then nothing was done. */
int reads_take(struct window *window, fuse_req_t request, unsigned long long handle, long long start, size_t size,
               long long end)
{
    size_t next = found(window, start), room = 0;
    int64_t at = start;
    for (int count = 0; at < end; count++, next++) {
        if (next >= window->count || window->pieces[next].start > at || count == PARTS)
            return 0;
        int64_t stop = window->pieces[next].end < end ? window->pieces[next].end : end;
        room += stop - at + 2 * window->block;
        at = stop;
    }
    struct job *job;
    if (room > ROOM || (job = malloc(sizeof *job)) == NULL)
        return 0;
    *job = (struct job){NULL, window, request, handle, start, size, end, now()};
    pthread_mutex_lock(&lock);
    if (busy >= threads && threads < THREADS)
        begin();
    if (threads == 0) {
        pthread_mutex_unlock(&lock);
        free(job);
        return 0;
    }
    *last = job;
    last = &job->next;
    busy++;
    window->busy++;
    pthread_mutex_unlock(&lock);
    pthread_cond_signal(&wanted); /* now: whoever is woken takes the lock */
    return 1;
}

/* How long the requests took that were answered since it was asked last, in seconds, at most `room` of them; and how
 * many bytes they got. */
size_t reads_ended(double *seconds, size_t room, uint64_t *bytes)
{
    pthread_mutex_lock(&lock);
    size_t count = ended_count < room ? ended_count : room;
    memcpy(seconds, ended, count * sizeof *seconds);
    ended_count = 0;
    *bytes = ended_bytes;
    ended_bytes = 0;
    pthread_mutex_unlock(&lock);
    return count;
}

/* Returns when no request is under way.  Blocks. */
void reads_wait(void)
{
    pthread_mutex_lock(&lock);
    while (busy > 0)
        pthread_cond_wait(&idle, &lock);
    pthread_mutex_unlock(&lock);
}

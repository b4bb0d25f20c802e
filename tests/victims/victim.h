/* What every victim shares: the protocol of ready, go and summary, and the ledger of what it did.
 *
 * A victim says `ready PID`, waits for a byte on stdin, works, writes one line of JSON that says
 * exactly what it allocated, freed and left behind since that byte, and waits for another byte or
 * the end of stdin. Between the two bytes it must make no allocation that is not in the ledger:
 * everything here uses static memory and plain read and write, never stdio. */
#ifndef VICTIM_H
#define VICTIM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A function that keeps its own frame and its own name. */
#define FRAME __attribute__((noipa))
/* Not every victim uses every helper. */
#define HELPER static __attribute__((unused))

/* Where blocks are left behind: names of the frames, leaf first, separated by commas; the first
 * is the caller of the allocator function. A report's stack has to begin with them. */
struct site {
    const char *frames;
    uint64_t bytes, count;
};

/* What happened since the go byte. Bytes are as requested. */
static struct {
    uint64_t allocated_bytes, allocated_count, freed_bytes, freed_count;
    /* Frees of blocks from before the go byte; not in `freed_*`. */
    uint64_t unknown_frees;
} ledger;

/* Victims have threads and signal handlers, so every entry is atomic. */
HELPER void add(uint64_t *to, uint64_t n) { __atomic_fetch_add(to, n, __ATOMIC_SEQ_CST); }

/* The allocator gave a block. */
HELPER void got(size_t bytes) {
    add(&ledger.allocated_bytes, bytes);
    add(&ledger.allocated_count, 1);
}

/* The allocator took back a block it gave since the go byte. */
HELPER void gone(size_t bytes) {
    add(&ledger.freed_bytes, bytes);
    add(&ledger.freed_count, 1);
}

/* A block already in the ledger is never going to be freed. */
HELPER void stays(struct site *site, size_t bytes) {
    add(&site->bytes, bytes);
    add(&site->count, 1);
}

/* Says on stderr what did not work and ends the victim with 1. */
HELPER void die(const char *what) {
    (void)!write(2, what, strlen(what));
    (void)!write(2, "\n", 1);
    _exit(1);
}

/* The allocator gave `block`, and it is going to stay. */
HELPER void keep(struct site *site, void *block, size_t bytes) {
    if (!block) die("the victim's allocation failed");
    got(bytes);
    stays(site, bytes);
}

/* Text under construction: no allocation, one write. */
struct text {
    char bytes[4000];
    size_t len;
};

HELPER void put(struct text *text, const char *s) {
    size_t len = strlen(s);
    if (text->len + len > sizeof text->bytes) die("the summary is too long");
    memcpy(text->bytes + text->len, s, len);
    text->len += len;
}

HELPER void put_number(struct text *text, uint64_t n) {
    char digits[21], *at = digits + 20;
    *at = 0;
    do *--at = '0' + n % 10; while (n /= 10);
    put(text, at);
}

HELPER void put_field(struct text *text, const char *name, uint64_t n) {
    put(text, ",\"");
    put(text, name);
    put(text, "\":");
    put_number(text, n);
}

/* Pipes take up to 4096 bytes in one piece. */
HELPER void send_text(struct text *text) {
    if (write(1, text->bytes, text->len) != (ssize_t)text->len) die("stdout is gone");
    text->len = 0;
}

/* Whether a byte came; 0 is the end of stdin. */
HELPER int wait_for_byte(void) {
    char byte;
    ssize_t n;
    do n = read(0, &byte, 1); while (n < 0 && errno == EINTR);
    return n == 1;
}

/* Says `ready PID` and waits for the go byte; without one there is nothing to do. */
HELPER void ready(void) {
    static struct text text;
    put(&text, "ready ");
    put_number(&text, (uint64_t)getpid());
    put(&text, "\n");
    send_text(&text);
    if (!wait_for_byte()) _exit(0);
}

/* Writes the summary. The sites end with NULL. */
HELPER void vsummary(const char *victim, va_list sites) {
    static struct text text;
    put(&text, "{\"victim\":\"");
    put(&text, victim);
    put(&text, "\",\"leaks\":[");
    int first = 1;
    for (struct site *site; (site = va_arg(sites, struct site *)); first = 0) {
        put(&text, first ? "{\"stack\":[\"" : ",{\"stack\":[\"");
        for (const char *at = site->frames; *at; at++) {
            char one[2] = {*at, 0};
            put(&text, *at == ',' ? "\",\"" : one);
        }
        put(&text, "\"]");
        put_field(&text, "bytes", site->bytes);
        put_field(&text, "count", site->count);
        put(&text, "}");
    }
    put(&text, "]");
    put_field(&text, "allocated_bytes", ledger.allocated_bytes);
    put_field(&text, "allocated_count", ledger.allocated_count);
    put_field(&text, "freed_bytes", ledger.freed_bytes);
    put_field(&text, "freed_count", ledger.freed_count);
    put_field(&text, "unknown_frees", ledger.unknown_frees);
    put(&text, "}\n");
    send_text(&text);
}

HELPER void summary(const char *victim, ...) {
    va_list sites;
    va_start(sites, victim);
    vsummary(victim, sites);
    va_end(sites);
}

/* Writes the summary, waits to be let go, and gives main's result. */
HELPER int finish(const char *victim, ...) {
    va_list sites;
    va_start(sites, victim);
    vsummary(victim, sites);
    va_end(sites);
    wait_for_byte();
    return 0;
}

#endif

/* The pipe behind Python's signal wakeup fd: a byte per signal, its number.
 *
 * There is one for the process, not one per loop: whichever loop runs in the main
 * thread drains it on behalf of all loops that have handlers.  So the loops never have
 * to chain to one another, and a signal that comes while none runs waits in the pipe.
 */
#ifndef HL_CORE_SIGPAIR_H
#define HL_CORE_SIGPAIR_H

#include "core/base.h"

#include <sys/types.h>

/* A descriptor of somebody else's, with what tells it from a later user of its number.
 */
typedef struct {
    int fd; /* -1: none */
    dev_t dev;
    ino_t ino;
} hl_fdid;

typedef struct {
    int users;    /* loops that watch rfd; the other fields hold only if > 0 */
    int rfd, wfd; /* both non-blocking and close-on-exec */
    int running;  /* loops between hl_signals_enter() and hl_signals_leave() */
    int holders;  /* loops with signal handlers: the pipe then stays installed */
    bool installed;
    hl_fdid old; /* the wakeup fd that ours was put over; gets a copy of each byte */
    unsigned long main_thread; /* 0: not known yet */
    pid_t pid;                 /* after a fork the pipe is still the parent's */
} hl_sigpair;

int hl_sigpair_open(hl_sigpair *p); /* 0 or -errno; all fields are set */
void hl_sigpair_close(hl_sigpair *p);
/* Reads what is there: the number of bytes, 0 for none. */
size_t hl_sigpair_read(const hl_sigpair *p, unsigned char *buf, size_t cap);

hl_fdid hl_fdid_of(int fd);
/* Is the number still the same open file? */
bool hl_fdid_valid(hl_fdid id);
/* Copies the bytes to it if it is still there; it must be non-blocking. */
void hl_fdid_forward(hl_fdid id, const unsigned char *buf, size_t n);

#endif

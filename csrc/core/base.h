/* Attributes and small macros that every layer uses.  No Python here. */
#ifndef HL_CORE_BASE_H
#define HL_CORE_BASE_H

/* -std=c11 hides pipe2, pselect and syscall.  This header comes first in every core
 * file, so that they also compile without the build's own flags (tests, fuzzers). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* There are epoll and eventfd.  HL_PORTABLE builds on Linux what other systems get. */
#if defined(__linux__) && !defined(HL_PORTABLE)
#define HL_LINUX 1
#endif

#define HL_LIKELY(x) __builtin_expect(!!(x), 1)
#define HL_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define HL_COLD __attribute__((cold, noinline))
#define hl_container_of(p, T, m) ((T *)((char *)(p) - offsetof(T, m)))

/* Sides of a descriptor; also the bits of an interest mask. */
#define HL_READ 1u
#define HL_WRITE 2u

/* errno of a system call that only says "later".  An interrupted call is no reason to
 * try again at once: the poller, being level-triggered, comes back with it, and the
 * interpreter gets to run its signal handlers before. */
static inline bool
hl_would_block(int err)
{
    return err == EAGAIN || err == EWOULDBLOCK || err == EINTR;
}

#endif

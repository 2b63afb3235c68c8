/* The loop's clock: CLOCK_MONOTONIC, which is also what time.monotonic() reads. */
#ifndef HL_CORE_CLOCK_H
#define HL_CORE_CLOCK_H

#include "core/base.h"

#include <time.h>

/* Cannot fail for this clock; the same reading as time.monotonic_ns(). */
static inline int64_t
hl_clock_ns(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* The same arithmetic as the interpreter's, so that loop.time() and time.monotonic()
 * compare. */
static inline double
hl_clock_seconds(void)
{
    return (double)hl_clock_ns() / 1e9;
}

/* A cheap counter for "has much time passed?": at least one tick a nanosecond (every
 * x86 of the last twenty years runs its counter at 1 GHz or more), of no use as a
 * clock. Should it jump, the answer is yes once too often. */
static inline uint64_t
hl_clock_ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return (uint64_t)hl_clock_ns();
#endif
}

#endif

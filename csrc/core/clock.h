/* The loop's clock: CLOCK_MONOTONIC, which is also what time.monotonic() reads. */
#ifndef HL_CORE_CLOCK_H
#define HL_CORE_CLOCK_H

#include "core/base.h"

#include <time.h>

static inline int64_t
hl_clock_ns(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static inline double
hl_clock_seconds(void)
{
    return (double)hl_clock_ns() / 1e9;
}

#endif

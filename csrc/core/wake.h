/* Wakes a sleeping poller from another thread: an eventfd, or a pipe where there is
 * none. */
#ifndef HL_CORE_WAKE_H
#define HL_CORE_WAKE_H

#include "core/base.h"

typedef struct {
    int rfd, wfd; /* the same number for an eventfd; -1 when closed */
} hl_wake;

int hl_wake_open(hl_wake *w); /* 0 or -errno; both ends non-blocking, close-on-exec */
void hl_wake_close(hl_wake *w);
/* From any thread, without the GIL, also from a signal handler. */
void hl_wake_signal(const hl_wake *w);
void hl_wake_drain(const hl_wake *w);

#endif

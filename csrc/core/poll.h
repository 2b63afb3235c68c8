/* The poller: one small table of functions per backend, chosen at run time.
 *
 * A backend knows descriptors, generations and interest masks, nothing else.  It touches
 * no Python; wait() may be called with the GIL released.  Everything returns 0 (or a
 * count) or -errno. */
#ifndef HL_CORE_POLL_H
#define HL_CORE_POLL_H

#include "core/base.h"

typedef struct {
    int fd;
    uint32_t gen;    /* the generation given to ctl(); stale events differ from fdtab's */
    uint32_t events; /* HL_READ | HL_WRITE; errors and hang-ups set both sides */
} hl_fired;

typedef struct hl_poll hl_poll;

typedef struct {
    const char *name;
    int max_fd; /* the first descriptor it cannot watch, or INT_MAX */
    int (*open)(hl_poll **out);
    void (*close)(hl_poll *p);
    /* Changes the interest in fd from mask `old` to mask `want` (either may be 0).
     * A descriptor that was closed and opened again under the same number is taken
     * for new.  -EPERM: this kind of file cannot be watched (a regular file under
     * epoll); -EBADF: it is closed. */
    int (*ctl)(hl_poll *p, int fd, uint32_t gen, uint32_t old, uint32_t want);
    /* Waits at most timeout_ns (< 0: for ever; 0: not at all) and fills in up to cap
     * events.  > 0 events, 0 timeout, -EINTR, other -errno. */
    int (*wait)(hl_poll *p, hl_fired *out, int cap, int64_t timeout_ns);
    int (*fileno)(hl_poll *p); /* the backend's own descriptor, or -1 */
} hl_poll_ops;

struct hl_poll {
    const hl_poll_ops *ops;
};

/* All backends, the preferred one first; NULL at the end. */
extern const hl_poll_ops *const hl_poll_backends[];
/* By name; NULL name: the first that opens here.  NULL when there is none. */
const hl_poll_ops *hl_poll_find(const char *name);

#endif

/* The poller: one small table of functions per backend, chosen at run time.
 *
 * A backend knows descriptors, generations and interest masks, nothing else.  It
 * touches no Python; wait() may be called with the GIL released.  Everything returns 0
 * (or a count) or -errno. */
#ifndef HL_CORE_POLL_H
#define HL_CORE_POLL_H

#include "core/base.h"

typedef struct {
    int fd;
    uint32_t gen; /* the generation given to ctl(); stale events differ from fdtab's */
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
     * for new; old == want tells again what may have been lost that way.  1, where the
     * backend can tell: done, and it is another file than the one of before.  -EPERM:
     * this kind of file cannot be watched (a regular file under epoll); -EBADF: it is
     * closed; -EINVAL: fd >= max_fd.  want == 0 never fails. */
    int (*ctl)(hl_poll *p, int fd, uint32_t gen, uint32_t old, uint32_t want);
    /* Waits at most timeout_ns (< 0: for ever; 0: not at all) and fills in up to cap
     * events, cap > 0.  > 0 events, -EINTR, other -errno; 0: timeout, or (rarely)
     * nothing to tell yet, so that the caller looks at its own clock. */
    int (*wait)(hl_poll *p, hl_fired *out, int cap, int64_t timeout_ns);
    int (*fileno)(hl_poll *p); /* the backend's own descriptor, or -1 */
} hl_poll_ops;

struct hl_poll {
    const hl_poll_ops *ops;
};

/* The backends of this system, the preferred one first.  A new one is one file,
 * poll_NAME.c, which defines hl_poll_NAME, and one entry here. */
#ifdef HL_LINUX
#define HL_POLL_BACKENDS(X) X(epoll) X(select)
#else
#define HL_POLL_BACKENDS(X) X(select)
#endif

#define HL_POLL_DECLARE(name) extern const hl_poll_ops hl_poll_##name;
HL_POLL_BACKENDS(HL_POLL_DECLARE)
#undef HL_POLL_DECLARE

/* All of them in that order; NULL at the end. */
extern const hl_poll_ops *const hl_poll_backends[];
/* By name; NULL name: the first that this kernel has.  NULL when there is none. */
const hl_poll_ops *hl_poll_find(const char *name);

#endif

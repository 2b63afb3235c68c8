/* The queue of bytes that wait to leave through a descriptor.
 *
 * A chunk belongs to an exact bytes object, so that nothing can change under it and
 * dropping it runs no foreign code.  Most transports never hold more than a few chunks:
 * those live inside the queue itself. */
#ifndef HL_NET_WQUEUE_H
#define HL_NET_WQUEUE_H

#include "py/pycompat.h"

#define HL_WQUEUE_INLINE 4
#define HL_WQUEUE_IOV 128 /* chunks that leave with one system call */

typedef struct {
    PyObject *owner; /* owned: an exact bytes object */
    const char *ptr; /* what is left of it */
    size_t len;
} hl_chunk;

typedef struct {
    hl_chunk *v; /* `inl`, or an allocation of cap chunks */
    size_t head, len, cap;
    size_t bytes; /* sum of all len: never counted anew */
    hl_chunk inl[HL_WQUEUE_INLINE];
} hl_wqueue;

void hl_wqueue_init(hl_wqueue *q);
/* Drops everything, and the memory with it. */
void hl_wqueue_clear(hl_wqueue *q);
/* Appends len > 0 bytes at ptr that belong to owner.  Steals owner, on failure too:
 * 0 or -1 with MemoryError. */
int hl_wqueue_push(hl_wqueue *q, PyObject *owner, const char *ptr, size_t len);
/* Sends from the front until the queue is empty or the socket takes no more: 0 when it
 * is empty now, -EAGAIN when something is left, or another -errno. */
int hl_wqueue_send(hl_wqueue *q, int fd);
/* The same for a descriptor that is no socket. */
int hl_wqueue_write(hl_wqueue *q, int fd);

#endif

/* The write queue: an array that is consumed from its head. */
#include "net/wqueue.h"
#include "core/sys.h"
#include "py/mem.h"

/* No allocation: a queue that never gets long costs nothing. */
void
hl_wqueue_init(hl_wqueue *q)
{
    q->v = q->inl;
    q->head = q->len = q->bytes = 0;
    q->cap = HL_WQUEUE_INLINE;
}

/* Dropping exact bytes runs no foreign code: the queue need not be emptied first. */
void
hl_wqueue_clear(hl_wqueue *q)
{
    for (size_t i = 0; i < q->len; i++) {
        Py_DECREF(q->v[q->head + i].owner);
    }
    if (q->v != q->inl) {
        PyMem_Free(q->v);
    }
    hl_wqueue_init(q);
}

/* Makes room behind the last chunk: 0 or -1. */
static int
make_room(hl_wqueue *q)
{
    if (q->head > q->cap / 2) { /* worth moving: at least half of it is free */
        memmove(q->v, q->v + q->head, q->len * sizeof(hl_chunk));
        q->head = 0;
        return 0;
    }
    bool fits = q->cap <= SIZE_MAX / 2 / sizeof(*q->v);
    hl_chunk *v = fits ? hl_pymem_malloc(q->cap * 2 * sizeof(*v)) : NULL;
    if (v == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(v, q->v + q->head, q->len * sizeof(hl_chunk));
    if (q->v != q->inl) {
        PyMem_Free(q->v);
    }
    q->v = v;
    q->head = 0;
    q->cap *= 2;
    return 0;
}

/* On failure the queue is as it was, and the owner is gone. */
int
hl_wqueue_push(hl_wqueue *q, PyObject *owner, const char *ptr, size_t len)
{
    assert(PyBytes_CheckExact(owner) && len > 0);
    if (HL_UNLIKELY(q->head + q->len == q->cap) && make_room(q) < 0) {
        Py_DECREF(owner);
        return -1;
    }
    q->v[q->head + q->len++] = (hl_chunk){owner, ptr, len};
    q->bytes += len;
    return 0;
}

/* Takes n bytes off the front. */
static void
consume(hl_wqueue *q, size_t n)
{
    assert(n <= q->bytes);
    q->bytes -= n;
    while (n > 0) {
        hl_chunk *c = &q->v[q->head];
        if (n < c->len) {
            c->ptr += n;
            c->len -= n;
            return;
        }
        n -= c->len;
        q->head++;
        q->len--;
        Py_DECREF(c->owner);
    }
    if (q->len == 0) {
        hl_wqueue_clear(q); /* a queue that grew gives its memory back */
    }
}

/* Several chunks of no more than this together are laid side by side first: for so few
 * bytes the copy costs less than the kernel's walk over a vector. */
#define FLAT_MAX (16 * 1024)

/* Many chunks, one system call; `total` bytes are in the first `count` of them. */
static ssize_t
send_flat(const hl_chunk *c, size_t count, size_t total, int fd, bool sock)
{
    char flat[FLAT_MAX];
    char *end = flat;
    for (size_t i = 0; i < count; i++) {
        memcpy(end, c[i].ptr, c[i].len);
        end += c[i].len;
    }
    assert((size_t)(end - flat) == total);
    return sock ? hl_sys_send(fd, flat, total, HL_MSG_NOSIGNAL)
                : hl_sys_write(fd, flat, total);
}

static ssize_t
send_vector(const hl_chunk *c, size_t count, int fd, bool sock)
{
    struct iovec iov[HL_WQUEUE_IOV];
    for (size_t i = 0; i < count; i++) {
        iov[i] = (struct iovec){(void *)c[i].ptr, c[i].len};
    }
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = count};
    return sock ? hl_sys_sendmsg(fd, &msg, HL_MSG_NOSIGNAL)
                : hl_sys_writev(fd, iov, (int)count);
}

/* One system call: the number of bytes that left, or -errno. */
static ssize_t
send_some(hl_wqueue *q, int fd, bool sock, size_t *tried)
{
    ssize_t n;
    hl_chunk *c = q->v + q->head;
    size_t count = q->len < HL_WQUEUE_IOV ? q->len : HL_WQUEUE_IOV;
    *tried = 0;
    for (size_t i = 0; i < count; i++) {
        *tried += c[i].len;
    }
    if (count == 1) {
        n = sock ? hl_sys_send(fd, c->ptr, c->len, HL_MSG_NOSIGNAL)
                 : hl_sys_write(fd, c->ptr, c->len);
    }
    else {
        n = *tried <= FLAT_MAX ? send_flat(c, count, *tried, fd, sock)
                               : send_vector(c, count, fd, sock);
    }
    return n < 0 ? -errno : n;
}

/* Stops at the first short write: the kernel's buffer is full, and a call that says so
 * again would cost as much as a useful one. */
static int
drain(hl_wqueue *q, int fd, bool sock)
{
    while (q->len > 0) {
        size_t tried;
        ssize_t n = send_some(q, fd, sock, &tried);
        if (n < 0) {
            return hl_would_block((int)-n) ? -EAGAIN : (int)n;
        }
        consume(q, (size_t)n);
        if ((size_t)n < tried) {
            return -EAGAIN; /* the descriptor's buffer is full: the next call would say
                             * so
                             */
        }
    }
    return 0;
}

int
hl_wqueue_send(hl_wqueue *q, int fd)
{
    return drain(q, fd, true);
}

int
hl_wqueue_write(hl_wqueue *q, int fd)
{
    return drain(q, fd, false);
}

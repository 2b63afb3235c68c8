/* Datagrams in and out.
 *
 * System calls of our own are made for sockets that are exactly socket.socket, of the
 * families that addr.c knows, and for addresses that need no name resolution.  For
 * everything else the socket object's methods are called, as asyncio does: they raise
 * what they raise there. */
#include "core/clock.h"
#include "core/sys.h"
#include "net/dgram.h"
#include "sched/inbox.h"

#include <arpa/inet.h>

#define SELF(op) ((DatagramTransport *)(op))

/* Datagrams that one wake-up delivers at most. */
#define BURST 16
/* A second datagram is looked for once in so many wake-ups, until one is found: the
 * look costs a system call, which a peer that waits for answers would pay in vain. */
#define LOOK_EVERY 16

/* ---- receiving ---- */

/* BlockingIOError and InterruptedError say nothing more than "later": cleared. */
static bool
raised_would_block(void)
{
    if (!PyErr_ExceptionMatches(PyExc_BlockingIOError) &&
        !PyErr_ExceptionMatches(PyExc_InterruptedError)) {
        return false;
    }
    PyErr_Clear();
    return true;
}

/* The address in Python's form.  A sender is likely to be the one before: then it is
 * the same object. */
static PyObject *
address_of(DatagramTransport *t, const hl_sockaddr *from, socklen_t len)
{
    if (len == 0) { /* a Unix socket without a name */
        return Py_NewRef(Py_None);
    }
    if (t->seen != NULL && !t->respelled && len == t->at_len &&
        memcmp(from, &t->at, len) == 0) {
        return Py_NewRef(t->seen);
    }
    PyObject *addr = hl_addr_to_py(&from->any, len);
    if (addr == NULL) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    /* Flow labels that recvfrom() shows may be more than sendto() accepts. */
    if (from->any.sa_family != AF_INET6 || from->in6.sin6_flowinfo == 0) {
        memcpy(&t->at, from, len);
        t->at_len = len;
        t->respelled = false;
        Py_XSETREF(t->seen, Py_NewRef(addr));
    }
    return addr;
}

/* One datagram by sock.recvfrom(): as receive(). */
static int
receive_by_name(DatagramTransport *t, PyObject **data, PyObject **addr)
{
    /* The method may close the transport, which drops its reference. */
    PyObject *sock = Py_NewRef(t->sock);
    PyObject *pair = PyObject_CallMethod(sock, "recvfrom", "i", HL_READ_MAX);
    Py_DECREF(sock);
    PyObject *seq =
        pair == NULL
            ? NULL
            : PySequence_Fast(pair, "recvfrom() must give a pair: data and address");
    Py_XDECREF(pair);
    if (seq == NULL) {
        return raised_would_block() ? 0 : -1;
    }
    int rc = 1;
    if (PySequence_Fast_GET_SIZE(seq) != 2) {
        PyErr_SetString(PyExc_ValueError,
                        "recvfrom() must give a pair: data and address");
        rc = -1;
    }
    else {
        *data = Py_NewRef(PySequence_Fast_GET_ITEM(seq, 0));
        *addr = Py_NewRef(PySequence_Fast_GET_ITEM(seq, 1));
    }
    Py_DECREF(seq);
    return rc;
}

/* One datagram: 1 with new references in *data and *addr, 0 when there is none, -1 with
 * an exception. */
static int
receive(DatagramTransport *t, PyObject **data, PyObject **addr)
{
    if (t->live_fd == NULL) {
        return receive_by_name(t, data, addr);
    }
    hl_sockaddr from;
    socklen_t len = sizeof(from);
    unsigned char *buf = hl_loop_scratch(t->loop);
    if (buf == NULL) {
        return -1;
    }
    ssize_t n =
        hl_sys_recvfrom(*t->live_fd, buf, HL_READ_MAX, MSG_DONTWAIT, &from.any, &len);
    if (n < 0) {
        return hl_would_block(errno) ? 0 : hl_raise_errno(errno);
    }
    *data = PyBytes_FromStringAndSize((char *)buf, n);
    *addr = *data == NULL ? NULL : address_of(t, &from, len);
    if (*addr == NULL) {
        Py_XDECREF(*data);
        return -1;
    }
    return 1;
}

/* An OSError is the protocol's to know, and the endpoint goes on; anything else ends
 * it.  0, or -1 with what error_received() raised. */
static int
on_error(DatagramTransport *t, const char *message)
{
    if (!PyErr_ExceptionMatches(PyExc_OSError)) {
        return hl_dgram_fatal(t, message);
    }
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *res = hl_transport_upcall(HL_TRANSPORT(t), t->st->s_error_received, exc);
    Py_DECREF(exc);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

/* Steals both. */
static int
deliver(DatagramTransport *t, PyObject *data, PyObject *addr)
{
    PyObject *protocol =
        t->protocol != NULL ? t->protocol : Py_None; /* ended by hand */
    PyObject *args[] = {NULL, Py_NewRef(protocol), data, addr};
    PyObject *res = PyObject_VectorcallMethod(t->st->s_datagram_received, args + 1,
                                              3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    for (int i = 1; i < 4; i++) {
        Py_DECREF(args[i]);
    }
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

/* Is a timer due?  A clock that was overridden is not asked: it may be Python code. */
static bool
timer_due(LoopObject *loop)
{
    hl_timer *top = hl_heap_top(&loop->sched.timers);
    return top != NULL && (loop->time_overridden || !(top->when > hl_clock_seconds()));
}

/* asyncio delivers one datagram a turn.  May another one follow in this turn, without
 * anybody seeing the difference?  Only when there is nothing else that the next turn
 * would run before it, and the last one left nothing to be done. */
static bool
may_follow(DatagramTransport *t, PyObject *ctx)
{
    LoopObject *loop = t->loop;
    return t->reading && t->read_ctx == ctx && !loop->stopping && !loop->sched.debug &&
           hl_sched_nothing_ready(&loop->sched) && loop->sched.n_flush == 0 &&
           !timer_due(loop);
}

static int
read_burst(PyObject *self)
{
    DatagramTransport *t = SELF(self);
    PyObject *ctx = t->read_ctx, *data = NULL, *addr = NULL; /* ctx: only compared */
    for (int n = 0; n < BURST; n++) {
        int got = receive(t, &data, &addr);
        if (n > 0) {
            t->more = got != 0 || n > 1;
        }
        if (got == 0) {
            return 0;
        }
        if (got < 0) {
            return on_error(t, "Fatal read error on datagram transport");
        }
        if (deliver(t, data, addr) < 0) {
            return -1;
        }
        if (!may_follow(t, ctx)) {
            return 0;
        }
        if (n == 0 && !t->more && ++t->tries < LOOK_EVERY) {
            return 0;
        }
        t->tries = 0;
    }
    return 0;
}

/* What the protocol raises is reported as asyncio's handle would, under the name of the
 * method that the handle would have called. */
static int
on_readable(PyObject *self)
{
    DatagramTransport *t = SELF(self);
    if (!t->reading) { /* queued before the watch ended */
        return 0;
    }
    int rc = hl_transport_in_ctx(HL_TRANSPORT(t), t->read_ctx, read_burst);
    return rc == 0 ? 0
                   : hl_transport_callback_failed(HL_TRANSPORT(t),
                                                  "DatagramTransport._read_ready()");
}

/* Idempotent, and silent about a transport that is paused or closing. */
int
hl_dgram_start_reading(DatagramTransport *t)
{
    if (t->reading || t->closing || t->paused) {
        return 0;
    }
    if (hl_loop_watch(t->loop, t->fd, HL_READ, (PyObject *)t, on_readable) < 0) {
        return -1;
    }
    t->reading = true;
    return 0;
}

/* ---- addresses ---- */

/* A number within 0..max that is exactly an int. */
static bool
small_number(PyObject *op, long max, long *out)
{
    int overflow;
    if (!PyLong_CheckExact(op)) {
        return false;
    }
    *out = PyLong_AsLongAndOverflow(op, &overflow);
    return !overflow && *out >= 0 && *out <= max;
}

/* Makes t->at of an address that is a tuple of a numeric host, exactly a str, and exact
 * ints within their ranges; false for everything else. */
static bool
parse_address(DatagramTransport *t, PyObject *addr)
{
    long port, flow = 0, scope = 0;
    Py_ssize_t n = PyTuple_CheckExact(addr) ? PyTuple_GET_SIZE(addr) : 0;
    if (n < 2 || n > (t->family == AF_INET6 ? 4 : 2) ||
        !PyUnicode_CheckExact(PyTuple_GET_ITEM(addr, 0)) ||
        !PyUnicode_IS_ASCII(PyTuple_GET_ITEM(addr, 0)) ||
        !small_number(PyTuple_GET_ITEM(addr, 1), 65535, &port) ||
        (n > 2 && !small_number(PyTuple_GET_ITEM(addr, 2), 0xfffff, &flow)) ||
        (n > 3 && !small_number(PyTuple_GET_ITEM(addr, 3), INT32_MAX, &scope))) {
        return false;
    }
    const char *host = (const char *)PyUnicode_1BYTE_DATA(PyTuple_GET_ITEM(addr, 0));
    if (strlen(host) != (size_t)PyUnicode_GET_LENGTH(PyTuple_GET_ITEM(addr, 0))) {
        return false; /* a zero within */
    }
    hl_sockaddr a;
    memset(&a, 0, sizeof(a));
    void *out =
        t->family == AF_INET ? (void *)&a.in4.sin_addr : (void *)&a.in6.sin6_addr;
    if (inet_pton(t->family, host, out) != 1) {
        return false;
    }
    a.any.sa_family = (sa_family_t)t->family;
    if (t->family == AF_INET) {
        a.in4.sin_port = htons((uint16_t)port);
        t->at_len = sizeof(a.in4);
    }
    else {
        a.in6.sin6_port = htons((uint16_t)port);
        a.in6.sin6_flowinfo = htonl((uint32_t)flow);
        a.in6.sin6_scope_id = (uint32_t)scope;
        t->at_len = sizeof(a.in6);
    }
    t->at = a;
    return true;
}

/* Is addr, that t->at was made of, something else than recvfrom() would show?  IPv6
 * addresses can be written in many ways, and scope and flow be left out. */
static bool
is_respelled(DatagramTransport *t, PyObject *addr)
{
    if (t->family == AF_INET) {
        return false;
    }
    PyObject *plain = hl_addr_to_py(&t->at.any, t->at_len);
    int same = plain == NULL ? -1 : PyObject_RichCompareBool(plain, addr, Py_EQ);
    Py_XDECREF(plain);
    if (same < 0) {
        PyErr_Clear();
    }
    return same <= 0;
}

/* Has t->at be this address: false when only the socket object can tell what it means.
 */
static bool
look_up(DatagramTransport *t, PyObject *addr)
{
    if (addr == t->seen) {
        return true;
    }
    if ((t->family != AF_INET && t->family != AF_INET6) || !parse_address(t, addr)) {
        return false;
    }
    t->respelled = is_respelled(t, addr);
    Py_XSETREF(t->seen, Py_NewRef(addr));
    return true;
}

/* ---- sending ---- */

/* One datagram by the socket object's methods: as transmit(). */
static int
transmit_by_name(DatagramTransport *t, PyObject *data, PyObject *addr, bool to_peer)
{
    PyObject *sock = Py_NewRef(t->sock);
    PyObject *res = to_peer ? PyObject_CallMethod(sock, "send", "O", data)
                            : PyObject_CallMethod(sock, "sendto", "OO", data, addr);
    Py_DECREF(sock);
    if (res == NULL) {
        return raised_would_block() ? 0 : -1;
    }
    Py_DECREF(res);
    return 1;
}

/* Sends one datagram: 1 when it has left, 0 when there is no room, -1 with an
 * exception. */
static int
transmit(DatagramTransport *t, PyObject *data, PyObject *addr)
{
    bool to_peer = t->connected || (t->has_peer && addr == Py_None);
    if (t->live_fd == NULL || (!to_peer && !look_up(t, addr))) {
        return transmit_by_name(t, data, addr, to_peer);
    }
    if (!to_peer && PySys_Audit("socket.sendto", "OO", t->sock, addr) < 0) {
        return -1;
    }
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    /* An audit hook may have closed us, or sent to somebody else. */
    int fd = t->live_fd == NULL || (!to_peer && !look_up(t, addr)) ? -1 : *t->live_fd;
    int flags = MSG_DONTWAIT | HL_MSG_NOSIGNAL;
    ssize_t n = to_peer ? hl_sys_send(fd, view.buf, (size_t)view.len, flags)
                        : hl_sys_sendto(fd, view.buf, (size_t)view.len, flags,
                                        &t->at.any, t->at_len);
    int err = n < 0 ? errno : 0;
    PyBuffer_Release(&view);
    return n >= 0 ? 1 : hl_would_block(err) ? 0 : hl_raise_errno(err);
}

/* From 3.13 on asyncio counts a header for each datagram, so that empty ones fill the
 * buffer too. */
static size_t
counted(PyObject *data)
{
    return (size_t)PyBytes_GET_SIZE(data) + HL_DATAGRAM_HEADER;
}

void
hl_dgram_drop(DatagramTransport *t)
{
    hl_ring out = t->out;
    t->out = (hl_ring){0};
    t->out_bytes = 0;
    while (hl_ring_len(&out) > 0) { /* an address may be anybody's object */
        hl_entry e = hl_ring_pop(&out);
        Py_DECREF((PyObject *)e.tagged);
        Py_DECREF((PyObject *)e.arg);
    }
    hl_ring_fini(&out);
}

/* Puts a datagram behind the others that wait; steals data, which is exactly bytes. */
static int
enqueue(DatagramTransport *t, PyObject *data, PyObject *addr)
{
    int rc = t->out.v == NULL ? hl_ring_init(&t->out, 16) : 0;
    if (rc == 0) {
        rc = hl_ring_push(&t->out, (uintptr_t)data, addr);
    }
    if (rc < 0) {
        Py_DECREF(data);
        return hl_raise_int(rc);
    }
    Py_INCREF(addr);
    t->out_bytes += counted(data);
    return 0;
}

/* Puts back what the socket had no room for; steals both references. */
static int
put_back(DatagramTransport *t, hl_entry e)
{
    int rc = 0;
    if (t->conn_lost) { /* foreign code aborted meanwhile */
        rc = 1;
    }
    else if (t->out.v == NULL || hl_ring_len(&t->out) > t->out.mask) {
        rc = t->out.v == NULL ? hl_ring_init(&t->out, 16) : hl_ring_grow(&t->out);
    }
    if (rc != 0) {
        Py_DECREF((PyObject *)e.tagged);
        Py_DECREF((PyObject *)e.arg);
        return rc < 0 ? hl_raise_int(rc) : 0;
    }
    t->out_bytes += counted((PyObject *)e.tagged);
    t->out.v[--t->out.head & t->out.mask] = e;
    return 0;
}

/* Sends what waits, until there is no more room: 0, -1 with an exception, or 1 when a
 * datagram was refused: the others have to wait for the next turn, as in asyncio.  A
 * datagram is taken out before it is sent, since sending by name is foreign code that
 * may drop the queue. */
static int
send_queue(DatagramTransport *t)
{
    while (t->out.v != NULL && hl_ring_len(&t->out) > 0) {
        hl_entry e = hl_ring_pop(&t->out);
        PyObject *data = (PyObject *)e.tagged, *addr = (PyObject *)e.arg;
        t->out_bytes -= counted(data);
        int sent = transmit(t, data, addr);
        if (sent == 0) {
            return put_back(t, e);
        }
        Py_DECREF(data);
        Py_DECREF(addr);
        if (sent < 0) {
            return on_error(t, "Fatal write error on datagram transport") < 0 ? -1 : 1;
        }
    }
    return 0;
}

/* resume_writing() comes when little is left, not only when nothing is; it may send
 * more, abort, or close.  Only an empty queue ends the watch. */
static int
write_more(PyObject *self)
{
    DatagramTransport *t = SELF(self);
    int rc = send_queue(t);
    if (rc != 0 || t->loop == NULL) {
        return rc < 0 ? -1 : 0;
    }
    if (hl_flow_resume(HL_TRANSPORT(t), t->out_bytes) < 0) {
        return -1;
    }
    if (t->conn_lost || (t->out.v != NULL && hl_ring_len(&t->out) > 0)) {
        return 0; /* resume_writing() aborted, or wrote more */
    }
    hl_transport_stop_writing(HL_TRANSPORT(t));
    if (!t->closing) {
        return 0;
    }
    t->conn_lost++;
    return hl_dgram_lost(t, Py_None);
}

/* The loop is held apart: connection_lost(), at the end of a close(), clears the
 * transport's own reference, and what it raises has still to be reported. */
static int
on_writable(PyObject *self)
{
    DatagramTransport *t = SELF(self);
    if (!t->writing) { /* queued before the watch ended */
        return 0;
    }
    LoopObject *loop = (LoopObject *)Py_NewRef(t->loop);
    int rc = hl_transport_in_ctx(HL_TRANSPORT(t), t->write_ctx, write_more);
    if (rc < 0 && t->loop != NULL) {
        rc = hl_transport_callback_failed(HL_TRANSPORT(t),
                                          "DatagramTransport._sendto_ready()");
    }
    else if (rc < 0) { /* connection_lost() raised */
        rc = hl_report(t->st, (PyObject *)loop,
                       "Exception in callback DatagramTransport._sendto_ready()",
                       t->st->s_transport, self, NULL, NULL);
    }
    Py_DECREF(loop);
    return rc;
}

/* There is no room: waits for it.  The context of this call is that of the upcalls
 * which follow from it, as for asyncio's add_writer(). */
static int
begin_waiting(DatagramTransport *t)
{
    PyObject *ctx = PyContext_CopyCurrent();
    if (ctx == NULL) {
        return -1;
    }
    Py_XSETREF(t->write_ctx, ctx);
    if (hl_loop_watch(t->loop, t->fd, HL_WRITE, (PyObject *)t, on_writable) < 0) {
        return hl_dgram_fatal(t, "Fatal write error on datagram transport");
    }
    t->writing = true;
    return 0;
}

/* Takes a datagram from the protocol: 0 or -1.  Sent at once if nothing waits, so that
 * the order is kept.  Each step can run foreign code (an address, a socket's method,
 * error_received()), hence the looks at conn_lost. */
static int
take(DatagramTransport *t, PyObject *data, PyObject *addr)
{
    if (t->out.v == NULL || hl_ring_len(&t->out) == 0) {
        int sent = transmit(t, data, addr);
        if (sent != 0) {
            return sent > 0 ? 0
                            : on_error(t, "Fatal write error on datagram transport");
        }
        if (t->conn_lost) { /* nobody would wait for room any more */
            return 0;
        }
        if (!t->writing && begin_waiting(t) < 0) {
            return -1;
        }
        if (t->conn_lost) { /* it could not be waited for */
            return 0;
        }
    }
    PyObject *bytes =
        PyBytes_CheckExact(data) ? Py_NewRef(data) : PyBytes_FromObject(data);
    if (bytes == NULL || enqueue(t, bytes, addr) < 0) {
        return -1;
    }
    return hl_flow_pause(HL_TRANSPORT(t), t->out_bytes);
}

/* Whether addr may be sent to, and what then stands for it (borrowed); or NULL. */
static PyObject *
check_address(DatagramTransport *t, PyObject *addr)
{
    if (t->address == NULL || addr == t->address) {
        return addr;
    }
    int same = PyObject_RichCompareBool(Py_None, addr, Py_EQ);
    if (same == 0) {
        same = PyObject_RichCompareBool(t->address, addr, Py_EQ);
    }
    if (same == 0) {
        PyErr_Format(PyExc_ValueError, "Invalid address: must be None or %S",
                     t->address);
    }
    return same > 0 ? t->address : NULL;
}

/* asyncio's checks in its order, then: a closed endpoint with a remote address counts
 * the writes that come too late, any other hands them to the socket, whose error the
 * protocol gets. */
static PyObject *
send_checked(DatagramTransport *t, PyObject *data, PyObject *addr)
{
    if (!PyBytes_Check(data) && !PyByteArray_Check(data) && !PyMemoryView_Check(data)) {
        return hl_transport_bad_data(data, "bytes-like");
    }
    if (!HL_SENDTO_SENDS_EMPTY) {
        int any = PyObject_IsTrue(data);
        if (any <= 0) {
            return any < 0 ? NULL : Py_NewRef(Py_None);
        }
    }
    addr = check_address(t, addr);
    if (addr == NULL) {
        return NULL;
    }
    int rc;
    if ((t->conn_lost && t->address != NULL) || t->loop == NULL || t->sock == NULL) {
        rc =
            hl_transport_lost_write(HL_TRANSPORT(t), "socket.send() raised exception.");
    }
    else {
        Py_INCREF(addr);
        rc = take(t, data, addr);
        Py_DECREF(addr);
    }
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}

/* sendto(data, addr=None).  Parsed by hand, since it runs once a datagram. */
PyObject *
hl_dgram_sendto(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    if (HL_LIKELY(kwnames == NULL && (nargs == 1 || nargs == 2))) {
        return send_checked(SELF(self), args[0], nargs == 2 ? args[1] : Py_None);
    }
    PyObject *in[] = {NULL, NULL};
    if (nargs > 2) {
        PyErr_Format(PyExc_TypeError,
                     "sendto() takes 1 or 2 arguments but %zd were given", nargs);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < nargs; i++) {
        in[i] = args[i];
    }
    for (Py_ssize_t i = 0; kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *key = PyTuple_GET_ITEM(kwnames, i);
        int k = PyUnicode_CompareWithASCIIString(key, "data") == 0   ? 0
                : PyUnicode_CompareWithASCIIString(key, "addr") == 0 ? 1
                                                                     : -1;
        if (k < 0 || in[k] != NULL) {
            PyErr_Format(PyExc_TypeError,
                         k < 0 ? "sendto() got an unexpected keyword argument '%U'"
                               : "sendto() got multiple values for argument '%U'",
                         key);
            return NULL;
        }
        in[k] = args[nargs + i];
    }
    if (in[0] == NULL) {
        PyErr_SetString(PyExc_TypeError,
                        "sendto() missing 1 required argument: 'data'");
        return NULL;
    }
    return send_checked(SELF(self), in[0], in[1] != NULL ? in[1] : Py_None);
}

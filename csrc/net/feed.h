/* asyncio's streams without a Python frame between the socket and the reader. */
#ifndef HL_NET_FEED_H
#define HL_NET_FEED_H

#include "net/transport.h"

/* Does what protocol.data_received(bytes) would do, for n > 0 bytes at data, if that is
 * asyncio's own StreamReaderProtocol with its own StreamReader and nobody can tell:
 * nothing of them is patched or replaced, debug is off, no tracer looks on.
 *
 *    1   done
 *    0   it is something else, and nothing has happened: make the bytes and call
 *   -1   an exception is set: the one that data_received() would have raised
 *
 * Any transport may use this, with the loop that it belongs to; it runs on the loop's
 * thread, in the context that data_received() would be called in, and the caller owns a
 * reference to protocol.  Data may be the loop's scratch buffer: it is copied before
 * foreign code can run, which is only the reader's transport being asked to pause.  So
 * the caller looks at its own state anew afterwards. */
int hl_feed(LoopObject *loop, PyObject *protocol, const void *data, Py_ssize_t n);

/* The same for reader.feed_data(bytes), where that neither fails nor slows a transport
 * down; no foreign code runs, in no context. */
int hl_feed_reader(LoopObject *loop, PyObject *reader, const void *data, Py_ssize_t n);

/* A class without hooks for attributes, and without anything of its own under a name
 * that only instances have. */
bool hl_feed_plain_class(PyTypeObject *type, PyObject *const *fields, int n);

/* An attribute of an instance of such a class: no foreign code runs.  NULL: it is not
 * there. */
static inline PyObject *
hl_feed_field(PyObject *op, PyObject *name)
{
    PyObject *value = PyObject_GenericGetAttr(op, name);
    if (HL_UNLIKELY(value == NULL)) {
        PyErr_Clear();
    }
    return value;
}

/* One read from a socket (recv) or anything else (read), given to data_received():
 *    1   done
 *    0   nothing came: *n is 0 for the end, or a -errno; -ENOMEM has an exception set
 *   -1   the protocol's exception is set */
int hl_feed_read(hl_transport *t, int fd, bool sock, ssize_t *n);

#endif

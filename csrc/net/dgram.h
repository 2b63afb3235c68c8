/* The datagram transport: UDP, Unix datagrams, and whatever else a socket object can
 * do.
 *
 *   dgram.c     the type: creation, attributes, the end of its life
 *   dgram_io.c  datagrams in and out, with flow control
 *
 * The descriptor belongs to the socket object, which is closed once, by us: after
 * connection_lost(), or in the finaliser.
 *
 * Any upcall may close or abort the transport, change its protocol or pause it:
 * everything is looked at anew afterwards. */
#ifndef HL_NET_DGRAM_H
#define HL_NET_DGRAM_H

#include "core/ring.h"
#include "net/addr.h"
#include "net/transport.h"

typedef struct {
    HL_TRANSPORT_HEAD
    PyObject *sock;    /* owned; NULL once closed */
    PyObject *address; /* owned: remote_addr, the only one that may be sent to; or NULL
                        */
    PyObject *waiter;  /* owned or NULL: told once reading has started */
    PyObject *seen;    /* owned or NULL: the address last met, immutable, for `at` */
    hl_sockaddr at;
    socklen_t at_len;
    const int *live_fd; /* the socket object's descriptor, for system calls of our own;
                           NULL: by its Python methods, as they may be overridden or
                           the only ones that know the address family */
    hl_ring out;        /* what waits: bytes and, as arg, an address; owned.  v NULL:
                           nothing ever did */
    size_t out_bytes;   /* their size as asyncio counts it */
    int family;
    unsigned char tries; /* wake-ups since a second datagram was looked for in vain */
    bool respelled;      /* `seen` is what sendto() got, in other words than ours */
    bool owned;          /* the loop knows the descriptor as a transport's */
    bool connected;      /* the socket has a peer, whose name is not empty */
    bool has_peer;       /* it has one */
    bool more;           /* the last look for a second datagram found one */
} DatagramTransport;

/* ---- dgram.c ---- */
/* loop._make_datagram_transport(sock, protocol, address=None, waiter=None, extra=None):
 * on failure the socket is still the caller's. */
PyObject *hl_loop_datagram(PyObject *loop, PyObject *args, PyObject *kwargs);
/* As hl_transport_fatal(). */
int hl_dgram_fatal(DatagramTransport *t, const char *message);
/* Calls connection_lost(exc) and lets go of everything: 0, or -1 with what it raised.
 */
int hl_dgram_lost(DatagramTransport *t, PyObject *exc);
int hl_dgram_exec(PyObject *mod, hl_state *st);

/* ---- dgram_io.c ---- */
/* Watches for input unless it is closing or paused: 0 or -1. */
int hl_dgram_start_reading(DatagramTransport *t);
PyObject *hl_dgram_sendto(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames);
/* Drops what waits to be sent. */
void hl_dgram_drop(DatagramTransport *t);

#endif

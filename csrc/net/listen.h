/* Listening sockets: connections are accepted and set up without a Python frame but the
 * protocol factory's. */
#ifndef HL_NET_LISTEN_H
#define HL_NET_LISTEN_H

#include "loop/loop.h"

/* loop._listen(sock, protocol_factory, server, backlog, on_accept=None): a Listener
 * that accepts until its close(), which leaves the socket open.  With on_accept, every
 * connection goes to on_accept(sock, peername) instead of into a transport. */
PyObject *hl_loop_listen(PyObject *self, PyObject *args, PyObject *kwargs);
int hl_listen_exec(PyObject *mod, hl_state *st);

#endif

/* The ordinary way to connect: one numeric address, nothing of it overridden, and so no
 * socket object, no task and no Python frame. */
#ifndef HL_NET_CONNECT_H
#define HL_NET_CONNECT_H

#include "loop/loop.h"

/* loop._connect(host, port, family, proto): a Connecting; or None, and then the long
 * way has to be gone.  Raises what socket() and connect() do. */
PyObject *hl_loop_connect(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
/* Is socket.socket the class that it was at import, with its methods? */
bool hl_socket_untouched(hl_state *st);
int hl_connect_exec(PyObject *mod, hl_state *st);

#endif

/* sock_recv() of an ordinary socket: the system call and the watch without Python. */
#ifndef HL_NET_RECEIVE_H
#define HL_NET_RECEIVE_H

#include "loop/loop.h"

/* loop._recv(sock, nbytes): bytes that were there; a Receiving, whose future brings
 * them; or None, and then the long way has to be gone. */
PyObject *hl_loop_recv(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
int hl_receive_exec(PyObject *mod, hl_state *st);

#endif

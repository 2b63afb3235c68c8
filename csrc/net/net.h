/* The entry point of the transport layer. */
#ifndef HL_NET_NET_H
#define HL_NET_NET_H

#include "loop/loop.h"

int hl_net_exec(PyObject *mod, hl_state *st); /* makes its types, adds its methods */

#endif

/* What a child process writes, on its way to asyncio.subprocess's StreamReader. */
#ifndef HL_NET_CHILD_H
#define HL_NET_CHILD_H

#include "net/transport.h"

/* Does what t's protocol's data_received(data) would do, if that is asyncio's own for a
 * pipe of a child with streams, and nobody can tell: 1; 0 if it is something else, and
 * nothing has happened; -1 with an exception.  Data is exact bytes, borrowed. */
int hl_child_data(hl_transport *t, PyObject *data);

#endif

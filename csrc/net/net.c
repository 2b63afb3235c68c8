/* What the transport layer brings to the module. */
#include "net/net.h"

int
hl_net_exec(PyObject *mod, hl_state *st)
{
    (void)mod;
    (void)st;
    return 0;
}

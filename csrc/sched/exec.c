/* Makes the types of this layer; without a known layout asyncio's own stand in. */
#include "sched/future.h"
#include "sched/inbox.h"

/* hotloop.Future and hotloop.Task exist in any case: programs derive from them. */
static int
export_base_types(PyObject *mod, hl_state *st)
{
    if (PyModule_AddObjectRef(mod, "Future", st->i_BaseFuture) < 0) {
        return -1;
    }
    return PyModule_AddObjectRef(mod, "Task", st->i_BaseTask);
}

/* In the order of need: tasks extend futures, and both use handles.  Without layouts
 * that fit, the handles alone are ours. */
int
hl_sched_exec(PyObject *mod, hl_state *st)
{
    if (hl_inbox_exec(st) < 0 || hl_handle_exec(mod, st) < 0) {
        return -1;
    }
    if (!st->native) {
        return export_base_types(mod, st);
    }
    if (hl_future_exec(mod, st) < 0 || hl_futiter_exec(mod, st) < 0 ||
        hl_wakeup_exec(mod, st) < 0) {
        return -1;
    }
    return hl_task_exec(mod, st);
}

/* Which tasks there are: the list behind asyncio.all_tasks(), or asyncio's own. */
#include "sched/future.h"

/* The list that an unfinished task hangs on: ours on 3.12 and 3.13, later the one of
 * the thread state.  NULL: asyncio has to be asked. asyncio's all_tasks() of 3.14 goes
 * through the threads; a task hangs on the list of the one that made it. */
static inline hl_node *
list_head(hl_state *st)
{
    if (!HL_TASKS_IN_TSTATE) {
        return st->tasks_listed ? &st->tasks : NULL;
    }
    return st->tstate.known ? hl_tstate_tasks(PyThreadState_Get(), &st->tstate) : NULL;
}

/* func is asyncio's _register_task() or its counterpart: Python code. */
static HL_COLD int
call_registry(PyObject *func, TaskObject *t)
{
    PyObject *r = PyObject_CallOneArg(func, (PyObject *)t);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

/* The list owns nothing, like asyncio's weak set: the task comes off in its dealloc. */
int
hl_task_enlist(hl_state *st, TaskObject *t)
{
    hl_node *head = list_head(st);
    if (HL_UNLIKELY(head == NULL)) {
        return call_registry(st->i_register_task, t);
    }
    if (HL_LIKELY(t->node.next == NULL)) {
        hl_list_push(head, &t->node);
    }
    return 0;
}

/* On whatever list it is: a node knows its neighbours, not its list. */
void
hl_task_unlink(TaskObject *t)
{
    if (t->node.next != NULL) {
        hl_list_remove(&t->node);
        t->node.next = t->node.prev = NULL;
    }
}

/* The task is done. */
int
hl_task_delist(hl_state *st, TaskObject *t)
{
    if (HL_UNLIKELY(!HL_TASKS_IN_TSTATE && !st->tasks_listed)) {
        return call_registry(st->i_unregister_task, t);
    }
    hl_task_unlink(t); /* on 3.14, wherever asyncio has put it */
    return 0;
}

/* ---- what asyncio.all_tasks() walks ---- */

/* Strong references to all, made without running foreign code; the caller, asyncio's
 * all_tasks() by way of _registry.py, filters by loop. */
static PyObject *
listed_tasks(PyObject *mod, PyObject *Py_UNUSED(ignored))
{
    hl_state *st = hl_state_of(mod);
    PyObject *list = PyList_New(0);
    if (list == NULL) {
        return NULL;
    }
    for (hl_node *n = st->tasks.next; n != &st->tasks; n = n->next) {
        /* Nothing below runs foreign code or drops a reference: the list stays put. */
        if (PyList_Append(list, (PyObject *)hl_container_of(n, TaskObject, node)) < 0) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

/* For asyncio._unregister_task() on a task of ours; True when it was listed here. */
static PyObject *
unlink_task(PyObject *mod, PyObject *op)
{
    hl_state *st = hl_state_of(mod);
    if (!hl_task_check(st, op) || AS_TASK(op)->node.next == NULL) {
        Py_RETURN_FALSE;
    }
    hl_task_unlink(AS_TASK(op));
    Py_RETURN_TRUE;
}

static PyMethodDef registry_methods[] = {
    {"_listed_tasks", listed_tasks, METH_NOARGS, "The unfinished tasks of ours."},
    {"_unlink_task", unlink_task, METH_O, "Take a task off that list."},
    {NULL, NULL, 0, NULL},
};

/* Without the set of asyncio's that _registry.py knows, tasks are registered by calls.
 */
int
hl_registry_install(PyObject *mod, hl_state *st)
{
    if (PyModule_AddFunctions(mod, registry_methods) < 0) {
        return -1;
    }
    PyObject *listed = PyObject_GetAttrString(mod, "_listed_tasks");
    PyObject *unlink = PyObject_GetAttrString(mod, "_unlink_task");
    PyObject *r = listed == NULL || unlink == NULL
                      ? NULL
                      : PyObject_CallFunctionObjArgs(st->i_install_registry, listed,
                                                     unlink, NULL);
    Py_XDECREF(listed);
    Py_XDECREF(unlink);
    if (r == NULL) {
        return -1;
    }
    st->tasks_listed = r == Py_True;
    Py_DECREF(r);
    return 0;
}

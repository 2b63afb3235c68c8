/* hotloop._core: the module, its slots and its state's life. */
#include "loop/loop.h"
#include "net/net.h"
#include "sched/sched.h"

/* By layers, the lower ones first: each exec uses the types that those before have
 * stored in the state.  On failure the interpreter drops the module, and with it
 * whatever was made. */
static int
module_exec(PyObject *mod)
{
    hl_state *st = hl_state_of(mod);
    if (hl_state_init(mod, st) < 0 || hl_sched_exec(mod, st) < 0 ||
        hl_loop_exec(mod, st) < 0 || hl_net_exec(mod, st) < 0) {
        return -1;
    }
    return 0;
}

/* The state does not exist yet when the collector comes between creating the module and
 * executing it. */
static int
module_traverse(PyObject *mod, visitproc visit, void *arg)
{
    hl_state *st = hl_state_of(mod);
    return st == NULL ? 0 : hl_state_traverse(st, visit, arg);
}

static int
module_clear(PyObject *mod)
{
    hl_state *st = hl_state_of(mod);
    return st == NULL ? 0 : hl_state_clear(st);
}

/* A module that the collector has not cleared is cleared here; clearing twice is
 * harmless. */
static void
module_free(void *mod)
{
    (void)module_clear((PyObject *)mod);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    /* All that changes is in the module's state or hangs on a loop.  Of the process
     * there is only the signal wakeup, which the main interpreter alone can set. */
    {Py_mod_multiple_interpreters, HL_MULTIPLE_INTERPRETERS},
#ifdef Py_mod_gil
/* What has been tested without a GIL is 3.13; later versions turn it on for us. */
#if HL_TASKS_IN_TSTATE
    {Py_mod_gil, Py_MOD_GIL_USED},
#else
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
#endif
    {0, NULL},
};

struct PyModuleDef hl_module_def = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "hotloop._core",
    .m_doc = "The event loop, its futures, tasks, handles and transports, in C.",
    .m_size = sizeof(hl_state),
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void);

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&hl_module_def);
}

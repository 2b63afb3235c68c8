/* The module's state: made once at import, visited and cleared by the collector. */
#include "py/state.h"

#include "py/compat.h"

#include <string.h>

/* A new reference, or NULL with ImportError or AttributeError.  Imports run Python
 * code: at import time only. */
static PyObject *
import_attr(const char *module, const char *attr)
{
    PyObject *mod = PyImport_ImportModule(module);
    if (mod == NULL) {
        return NULL;
    }
    PyObject *value = PyObject_GetAttrString(mod, attr);
    Py_DECREF(mod);
    return value;
}

/* Interned, so that a look-up by one of them mostly compares pointers. */
static int
make_names(hl_state *st)
{
#define X(n)                                                                           \
    if ((st->s_##n = PyUnicode_InternFromString(#n)) == NULL) {                        \
        return -1;                                                                     \
    }
    HL_NAMES(X)
#undef X
    return 0;
}

/* What asyncio exports is looked up once.  Whoever replaces one of these functions in
 * asyncio's modules afterwards does not change what we call; what programs do patch in
 * practice, such as methods of the loop, is called by its name. */
static int
make_imports(hl_state *st)
{
#define X(n, mod, attr)                                                                \
    if ((st->i_##n = import_attr(mod, attr)) == NULL) {                                \
        return -1;                                                                     \
    }
    HL_IMPORTS(X)
#undef X
#define X(n, mod, attr)                                                                \
    if ((st->i_##n = import_attr(mod, attr)) == NULL) {                                \
        if (!PyErr_ExceptionMatches(PyExc_ImportError)) {                              \
            return -1;                                                                 \
        }                                                                              \
        PyErr_Clear();                                                                 \
    }
    HL_SSL_IMPORTS(X)
#undef X
    return 0;
}

/* asyncio keeps {loop: task} in a dictionary up to 3.13 and in the thread state later.
 */
static int
find_current_tasks(hl_state *st)
{
    st->current_tasks = import_attr("asyncio.tasks", "_current_tasks");
    if (st->current_tasks == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear();
    }
    else if (!PyDict_CheckExact(st->current_tasks)) {
        Py_CLEAR(st->current_tasks);
    }
    return 0;
}

static int
import_flag(const char *name, bool *flag)
{
    PyObject *value = import_attr("hotloop._layout", name);
    *flag = value == Py_True;
    Py_XDECREF(value);
    return value == NULL ? -1 : 0;
}

/* asyncio.eager_task_factory, and what differs between versions without a number that
 * says so. */
static int
find_habits(hl_state *st)
{
    st->eager_factory = import_attr("asyncio.tasks", "eager_task_factory");
    if (st->eager_factory == NULL ||
        import_flag("TAKES_EAGER_START", &st->takes_eager_start) < 0) {
        return -1;
    }
    return import_flag("STOPS_WITH_NONE", &st->stops_with_none);
}

/* The module's memory comes zeroed, and may be traversed at any time from now on: every
 * field is NULL or right at each moment.  A failure leaves what has been made to
 * hl_state_clear(). */
int
hl_state_init(PyObject *mod, hl_state *st)
{
    memset(st, 0, sizeof(*st));
    st->mod = mod;
    for (int i = 0; i < HL_TASK_LISTS; i++) {
        hl_list_init(&st->tasks[i].head);
    }
    if (make_names(st) < 0 || make_imports(st) < 0 || find_current_tasks(st) < 0 ||
        find_habits(st) < 0) {
        return -1;
    }
    st->kw_context = PyTuple_Pack(1, st->s_context);
    st->coro_types = PySet_New(NULL);
    if (st->kw_context == NULL || st->coro_types == NULL) {
        return -1;
    }
    /* Last, since the proof makes objects by way of the imports above. */
    int native = hl_compat_check(st);
    if (native < 0 || hl_contexts_check(st) < 0) {
        return -1;
    }
    st->native = native;
    return 0;
}

/* Names are strings and need no visit.  The tasks in `tasks` are not owned: visiting
 * them would make the collector think that the list keeps them alive. */
int
hl_state_traverse(hl_state *st, visitproc visit, void *arg)
{
#define X(n) Py_VISIT(st->t_##n);
    HL_TYPES(X)
#undef X
#define X(n, mod, attr) Py_VISIT(st->i_##n);
    HL_IMPORTS(X)
    HL_SSL_IMPORTS(X)
#undef X
    Py_VISIT(st->current_tasks);
    Py_VISIT(st->coro_types);
    Py_VISIT(st->eager_factory);
    Py_VISIT(st->openssl);
    Py_VISIT(st->no_vars);
    return 0;
}

/* Objects on a free list have been torn down to their memory: no reference and no type
 * is left in them that would have to be dropped. */
static void
freelist_clear(hl_freelist *list)
{
    while (list->n > 0) {
        PyObject_GC_Del(list->v[--list->n]);
    }
}

/* Runs when the module dies, which all our objects keep alive, or when the collector
 * takes the module and them together.  In the second case objects of ours may still be
 * torn down afterwards: dealloc compares its type with st->t_..., which is NULL by
 * then, and so frees the memory instead of putting it on a list nobody empties. */
int
hl_state_clear(hl_state *st)
{
    freelist_clear(&st->free_handles);
    freelist_clear(&st->free_timers);
    freelist_clear(&st->free_safe_handles);
    freelist_clear(&st->free_futures);
    freelist_clear(&st->free_tasks);
    freelist_clear(&st->free_iters);
#define X(n) Py_CLEAR(st->t_##n);
    HL_TYPES(X)
#undef X
#define X(n, mod, attr) Py_CLEAR(st->i_##n);
    HL_IMPORTS(X)
    HL_SSL_IMPORTS(X)
#undef X
#define X(n) Py_CLEAR(st->s_##n);
    HL_NAMES(X)
#undef X
    Py_CLEAR(st->kw_context);
    Py_CLEAR(st->current_tasks);
    Py_CLEAR(st->coro_types);
    Py_CLEAR(st->eager_factory);
    Py_CLEAR(st->openssl);
    Py_CLEAR(st->no_vars);
    hl_contexts_drop(st);
    return 0;
}

int
hl_type_add(PyObject *mod, PyTypeObject **slot, PyType_Spec *spec, PyObject *bases)
{
    PyObject *type = PyType_FromModuleAndSpec(mod, spec, bases);
    if (type == NULL) {
        return -1;
    }
    *slot = (PyTypeObject *)type;
    return PyModule_AddType(mod, *slot);
}

PyObject *
hl_get_object(PyObject *op, void *closure)
{
    PyObject *value;
    HL_LOCK(op);
    value = *(PyObject **)((char *)op + (size_t)closure);
    value = Py_NewRef(value == NULL ? Py_None : value);
    HL_UNLOCK();
    return value;
}

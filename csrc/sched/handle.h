/* The memory of a Handle and a TimerHandle, for this layer's own files. */
#ifndef HL_SCHED_HANDLE_H
#define HL_SCHED_HANDLE_H

#include "sched/sched.h"

#define HL_INLINE_ARGS 3

typedef struct {
    HL_BASE_HANDLE_FIELDS
    hl_state *st;  /* valid while mod is held */
    PyObject *mod; /* owned; dropped last */
    /* The snapshot of a context (py/compat.h) until one is needed, or NULL. */
    PyObject *vars;
    int nargs; /* inline arguments, or -1: they are the tuple `args` */
    bool cancelled;
    bool hidden; /* cancelled, and `_callback` and `_args` read as None */
    /* The callback is on the stack: cancel() leaves the arguments alone. */
    bool running;
    bool shared; /* a ThreadSafeHandle */
    /* slot[0] is scratch for PY_VECTORCALL_ARGUMENTS_OFFSET, then the arguments */
    PyObject *slot[1 + HL_INLINE_ARGS];
} HandleObject;

typedef struct {
    HandleObject h;
    hl_timer node; /* while it is in the heap, the heap owns a reference to us */
} TimerObject;

/* From 3.14 on, what call_soon_threadsafe() returns: cancel() and cancelled() in
 * another thread wait until the running callback is done. */
typedef struct {
    HandleObject h;
    unsigned long runner;    /* the thread that runs the callback */
    PyThread_type_lock gate; /* made by the first who waits */
    bool gate_shut;          /* the gate is locked until the callback is done */
} SafeHandleObject;

/* Handle's methods, by their places in the list. */
enum {
    HL_HANDLE_CANCEL,
    HL_HANDLE_CANCELLED,
    HL_HANDLE_GET_CONTEXT,
    HL_HANDLE_RUN,
};
extern PyMethodDef hl_handle_methods[];
extern PyGetSetDef hl_handle_getset[];
PyObject *hl_handle_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs);
int hl_handle_tp_init(PyObject *op, PyObject *args, PyObject *kwargs);
void hl_handle_tp_dealloc(PyObject *op);
int hl_handle_tp_traverse(PyObject *op, visitproc visit, void *arg);
int hl_handle_tp_clear(PyObject *op);

/* ---- safehandle.c ---- */
int hl_safehandle_exec(PyObject *mod, hl_state *st);
void hl_safehandle_enter(PyObject *op); /* this thread begins to run its callback */
void hl_safehandle_leave(PyObject *op); /* and is done */
void hl_safehandle_fini(PyObject *op);

#endif

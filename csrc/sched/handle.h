/* The memory of a Handle and a TimerHandle, for this layer's own files. */
#ifndef HL_SCHED_HANDLE_H
#define HL_SCHED_HANDLE_H

#include "sched/sched.h"

#define HL_INLINE_ARGS 3

typedef struct {
    HL_BASE_HANDLE_FIELDS
    hl_state *st;  /* valid while mod is held */
    PyObject *mod; /* owned; dropped last */
    int nargs;     /* inline arguments, or -1: they are the tuple `args` */
    bool cancelled;
    bool hidden; /* cancelled, and `_callback` and `_args` read as None */
    /* The callback is on the stack: cancel() leaves the arguments alone. */
    bool running;
    /* slot[0] is scratch for PY_VECTORCALL_ARGUMENTS_OFFSET, then the arguments */
    PyObject *slot[1 + HL_INLINE_ARGS];
} HandleObject;

typedef struct {
    HandleObject h;
    hl_timer node; /* while it is in the heap, the heap owns a reference to us */
} TimerObject;

#endif

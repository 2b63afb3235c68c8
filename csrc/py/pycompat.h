/* The only file that knows private CPython structures and the versions they change
 * with.
 *
 * Our Future and Task keep all their state in the fields of the _asyncio object they
 * extend, so that unbound asyncio.Future.* and asyncio.Task.* calls see the truth.  The
 * structures below mirror those fields; hl_compat_check() proves at import that the
 * running interpreter lays them out the same way. */
#ifndef HL_PY_PYCOMPAT_H
#define HL_PY_PYCOMPAT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "core/base.h"
#include "core/list.h"

#include <string.h>

#if PY_VERSION_HEX < 0x030C0000
#error "hotloop needs Python 3.12 or later"
#endif

#if PY_VERSION_HEX < 0x030D0000
#define PyObject_VisitManagedDict _PyObject_VisitManagedDict
#define PyObject_ClearManagedDict _PyObject_ClearManagedDict
#define Py_IsFinalizing _Py_IsFinalizing
#endif

/* From 3.13 on the last uncancel() also takes back a cancellation not yet thrown. */
#define HL_UNCANCEL_CLEARS_MUST_CANCEL (PY_VERSION_HEX >= 0x030D0000)

/* 3.12 refuses StopIteration in set_exception(), later versions wrap it. */
#define HL_STOP_ITERATION_REFUSED (PY_VERSION_HEX < 0x030D0000)

/* sendto() of no bytes: nothing up to 3.12, an empty datagram from then on; and bytes
 * that flow control counts for a datagram besides its own. */
#define HL_SENDTO_SENDS_EMPTY (PY_VERSION_HEX >= 0x030D0000)
#define HL_DATAGRAM_HEADER (PY_VERSION_HEX >= 0x030D0000 ? 8u : 0u)

/* What a stream's write() says it wants, and, from 3.14 on, an element of writelines()
 * that is false is passed over whatever its type. */
#if PY_VERSION_HEX >= 0x030E0000
#define HL_STREAM_DATA "bytes, bytearray, or memoryview"
#define HL_WRITELINES_SKIPS_FALSE true
#else
#define HL_STREAM_DATA "bytes-like"
#define HL_WRITELINES_SKIPS_FALSE false
#endif

/* Streams: one context for all that a connection calls, from 3.15 on; before that each
 * callback runs in a copy of the context of whoever had it called. */
#define HL_STREAM_HAS_CONTEXT (PY_VERSION_HEX >= 0x030F0000)

/* On 3.12 a program that has run stock asyncio in an interpreter with a GIL of its own
 * ends in the allocator's abort(). */
#if PY_VERSION_HEX >= 0x030D0000
#define HL_MULTIPLE_INTERPRETERS Py_MOD_PER_INTERPRETER_GIL_SUPPORTED
#else
#define HL_MULTIPLE_INTERPRETERS Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED
#endif

/* From 3.14 on asyncio's tasks hang on a list of the thread state, by a node of their
 * own, the current task is kept there too, and a future knows who awaits it. */
#define HL_TASKS_IN_TSTATE (PY_VERSION_HEX >= 0x030E0000)
#define HL_KNOWS_WAITERS (PY_VERSION_HEX >= 0x030E0000)

/* The objects of _ssl are those that compat.c mirrors, and nobody uses them while we
 * have the GIL. */
#ifdef Py_GIL_DISABLED
#define HL_KNOWS_SSL 0
#else
#define HL_KNOWS_SSL (PY_VERSION_HEX < 0x03100000)
#endif

/* From 3.15 on __init__ refuses to run twice. */
#define HL_INIT_ONCE (PY_VERSION_HEX >= 0x030F0000)

/* What a task that ended eagerly holds for its coroutine (a new reference, or NULL): on
 * 3.12 an unbound asyncio.Task.get_coro() takes NULL for an object. */
#if PY_VERSION_HEX < 0x030D0000
#define HL_NO_CORO Py_NewRef(Py_None)
#else
#define HL_NO_CORO NULL
#endif

/* asyncio's fut_state, by value. */
enum { HL_PENDING = 0, HL_CANCELLED = 1, HL_FINISHED = 2 };

#define HL_BASE_FUTURE_OBJECTS                                                         \
    PyObject_HEAD                                                                      \
    PyObject *loop;                                                                    \
    PyObject *callback0;                                                               \
    PyObject *context0;                                                                \
    PyObject *callbacks;                                                               \
    PyObject *exception;                                                               \
    PyObject *exception_tb;                                                            \
    PyObject *result;                                                                  \
    PyObject *source_tb;                                                               \
    PyObject *cancel_msg;

#if PY_VERSION_HEX < 0x030D0000
#define HL_BASE_FUTURE_FIELDS                                                          \
    HL_BASE_FUTURE_OBJECTS                                                             \
    int state;                                                                         \
    int log_tb;                                                                        \
    int blocking;                                                                      \
    PyObject *dict;                                                                    \
    PyObject *weakreflist;                                                             \
    PyObject *cancelled_exc;
#define HL_BASE_TASK_FIELDS                                                            \
    HL_BASE_FUTURE_FIELDS                                                              \
    PyObject *fut_waiter;                                                              \
    PyObject *coro;                                                                    \
    PyObject *name;                                                                    \
    PyObject *context;                                                                 \
    int must_cancel;                                                                   \
    int log_destroy_pending;                                                           \
    int num_cancels_requested;
#else
#if HL_KNOWS_WAITERS
#define HL_BASE_FUTURE_FIELDS                                                          \
    HL_BASE_FUTURE_OBJECTS                                                             \
    PyObject *cancelled_exc;                                                           \
    PyObject *awaited_by; /* a future or task, or a set of them */                     \
    int state;                                                                         \
    char is_task;                                                                      \
    char awaited_by_is_set;                                                            \
    unsigned log_tb : 1;                                                               \
    unsigned blocking : 1;
#else
#define HL_BASE_FUTURE_FIELDS                                                          \
    HL_BASE_FUTURE_OBJECTS                                                             \
    PyObject *cancelled_exc;                                                           \
    int state;                                                                         \
    unsigned log_tb : 1;                                                               \
    unsigned blocking : 1;
#endif
#define HL_BASE_TASK_FIELDS                                                            \
    HL_BASE_FUTURE_FIELDS                                                              \
    unsigned must_cancel : 1;                                                          \
    unsigned log_destroy_pending : 1;                                                  \
    int num_cancels_requested;                                                         \
    PyObject *fut_waiter;                                                              \
    PyObject *coro;                                                                    \
    PyObject *name;                                                                    \
    PyObject *context;                                                                 \
    HL_BASE_TASK_REGISTERED
#endif

/* What a task is registered by.  Unregistered: NULL, as asyncio has it. */
#if HL_TASKS_IN_TSTATE && defined(Py_GIL_DISABLED)
#define HL_BASE_TASK_REGISTERED                                                        \
    hl_node node;                                                                      \
    uintptr_t thread_id;
#elif HL_TASKS_IN_TSTATE
#define HL_BASE_TASK_REGISTERED hl_node node;
#else
#define HL_BASE_TASK_REGISTERED
#endif
#if HL_TASKS_IN_TSTATE
#define HL_OWN_TASK_REGISTERED
#else
#define HL_OWN_TASK_REGISTERED hl_node node;
#endif

typedef struct {
    HL_BASE_FUTURE_FIELDS
} hl_base_future;

typedef struct {
    HL_BASE_TASK_FIELDS
} hl_base_task;

/* The part of a Future's GC slots that differs by version: its instance dictionary. */
static inline int
hl_future_visit_dict(PyObject *op, visitproc visit, void *arg)
{
#if PY_VERSION_HEX < 0x030D0000
    Py_VISIT(((hl_base_future *)op)->dict);
    return 0;
#else
    return PyObject_VisitManagedDict(op, visit, arg);
#endif
}

static inline void
hl_future_clear_dict(PyObject *op)
{
#if PY_VERSION_HEX < 0x030D0000
    Py_CLEAR(((hl_base_future *)op)->dict);
#else
    PyObject_ClearManagedDict(op);
#endif
}

/* ---- who awaits a future ---- */

/* The cases with more than one waiter: 0, or -1 with an exception. */
int hl_awaited_by_add_slow(hl_base_future *f, PyObject *waiter);
int hl_awaited_by_discard_slow(hl_base_future *f, PyObject *waiter);

static inline int
hl_awaited_by_add(hl_base_future *f, PyObject *waiter)
{
#if HL_KNOWS_WAITERS
    if (HL_UNLIKELY(f->awaited_by != NULL)) {
        return hl_awaited_by_add_slow(f, waiter);
    }
    f->awaited_by = Py_NewRef(waiter);
#else
    (void)f;
    (void)waiter;
#endif
    return 0;
}

static inline int
hl_awaited_by_discard(hl_base_future *f, PyObject *waiter)
{
#if HL_KNOWS_WAITERS
    if (HL_UNLIKELY(f->awaited_by != waiter)) {
        return hl_awaited_by_discard_slow(f, waiter);
    }
    Py_CLEAR(f->awaited_by);
#else
    (void)f;
    (void)waiter;
#endif
    return 0;
}

static inline int
hl_awaited_by_visit(hl_base_future *f, visitproc visit, void *arg)
{
#if HL_KNOWS_WAITERS
    Py_VISIT(f->awaited_by);
#else
    (void)f;
    (void)visit;
    (void)arg;
#endif
    return 0;
}

static inline void
hl_awaited_by_clear(hl_base_future *f)
{
#if HL_KNOWS_WAITERS
    Py_CLEAR(f->awaited_by);
    f->awaited_by_is_set = 0;
#else
    (void)f;
#endif
}

/* Tells whoever inspects the process from outside that this future is a task. */
static inline void
hl_mark_task(hl_base_future *f)
{
#if HL_KNOWS_WAITERS
    f->is_task = 1;
#else
    (void)f;
#endif
}

/* ---- references to objects that may be dying in another thread ---- */

#if defined(Py_GIL_DISABLED) && PY_VERSION_HEX < 0x030E0000
/* 3.14 has public functions for the two; these are its rules: an object's own thread
 * counts apart from all others, and a count of zero is final once it is merged, which
 * this mark makes it be. */
static inline void
hl_incref_tried(PyObject *op)
{
    Py_ssize_t was = __atomic_load_n(&op->ob_ref_shared, __ATOMIC_RELAXED);
    while ((was & _Py_REF_SHARED_FLAG_MASK) == 0 &&
           !__atomic_compare_exchange_n(&op->ob_ref_shared, &was,
                                        was | _Py_REF_MAYBE_WEAKREF, false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
    }
}

static inline bool
hl_incref_try(PyObject *op)
{
    if (_Py_IsOwnedByCurrentThread(op)) {
        Py_INCREF(op);
        return true;
    }
    Py_ssize_t was = __atomic_load_n(&op->ob_ref_shared, __ATOMIC_RELAXED);
    while (was != 0 && was != _Py_REF_MERGED) {
        if (__atomic_compare_exchange_n(&op->ob_ref_shared, &was,
                                        was + (1 << _Py_REF_SHARED_SHIFT), false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
            return true;
        }
    }
    return false;
}
#elif defined(Py_GIL_DISABLED)
#define hl_incref_tried(op) PyUnstable_EnableTryIncRef(op)
#define hl_incref_try(op) PyUnstable_TryIncRef(op)
#else
#define hl_incref_tried(op) ((void)(op))
#define hl_incref_try(op) (Py_INCREF(op), true)
#endif

/* ---- what asyncio keeps in the thread state ---- */

/* Byte offsets in the thread state, read from what _asyncio publishes for debuggers;
 * known is set once they have been tried (compat.c). */
typedef struct {
    bool known;
    size_t running_loop, running_task, tasks_head;
} hl_tstate_offsets;

static inline PyObject **
hl_tstate_running_loop(PyThreadState *ts, const hl_tstate_offsets *at)
{
    return (PyObject **)((char *)ts + at->running_loop);
}

static inline PyObject **
hl_tstate_running_task(PyThreadState *ts, const hl_tstate_offsets *at)
{
    return (PyObject **)((char *)ts + at->running_task);
}

static inline hl_node *
hl_tstate_tasks(PyThreadState *ts, const hl_tstate_offsets *at)
{
    return (hl_node *)((char *)ts + at->tasks_head);
}

/* ---- handles ---- */

/* asyncio.Handle and asyncio.TimerHandle are Python classes with __slots__; the slots
 * lie in the order of their names, the timer's two behind the handle's. */
#define HL_BASE_HANDLE_FIELDS                                                          \
    PyObject_HEAD                                                                      \
    PyObject *args;             /* _args */                                            \
    PyObject *callback;         /* _callback */                                        \
    PyObject *cancelled_slot;   /* _cancelled: stays NULL, shadowed */                 \
    PyObject *context;          /* _context */                                         \
    PyObject *loop;             /* _loop */                                            \
    PyObject *repr;             /* _repr */                                            \
    PyObject *source_traceback; /* _source_traceback */                                \
    PyObject *scheduled_slot;   /* _scheduled: stays NULL, shadowed */                 \
    PyObject *when_slot;        /* _when: stays NULL, shadowed */

typedef struct {
    HL_BASE_HANDLE_FIELDS
} hl_base_handle;

/* How many bytes the interpreter has in front of an object that the collector knows:
 * two words of the collector's, and two more where it keeps the weak references, whose
 * place must agree.  0: it is another version, or another layout. */
static inline size_t
hl_gc_head_size(PyTypeObject *type)
{
#if defined(Py_GIL_DISABLED) || PY_VERSION_HEX >= 0x03100000
    (void)type;
    return 0;
#else
    size_t head = 4 * sizeof(void *);
    return type->tp_weaklistoffset == -(Py_ssize_t)head ? head : 0;
#endif
}

/* A contextvars.Context.  What it maps is an immutable object, so a snapshot of a
 * context is a reference to that; copying a context is no more, with a new object
 * around it. */
typedef struct {
    PyObject_HEAD
    PyObject *prev;
    PyObject *vars;
    PyObject *weakreflist;
    int entered;
} hl_base_context;

/* The context that is current in this thread, borrowed; NULL when none has been needed.
 */
static inline PyObject *
hl_context_borrow(void)
{
    return PyThreadState_Get()->context;
}

/* sys.settrace() or sys.setprofile() is on in this thread. */
static inline bool
hl_being_traced(void)
{
    PyThreadState *ts = PyThreadState_Get();
    return ts->c_tracefunc != NULL || ts->c_profilefunc != NULL;
}

#if PY_VERSION_HEX >= 0x030D0000 /* exported, but without a public header */
PyAPI_FUNC(int) _PyObject_GetMethod(PyObject *obj, PyObject *name, PyObject **method);
#endif

/* What the type or a base of it has under that name, borrowed, as it is in their
 * dictionaries; NULL, without an exception, for nothing. */
static inline PyObject *
hl_type_lookup(PyTypeObject *type, PyObject *name)
{
    return _PyType_Lookup(type, name);
}

/* What obj.<name> would call is this very function, which obj's type has: no entry of
 * the instance hides it.  Makes no bound method. */
static inline bool
hl_method_is(PyObject *obj, PyObject *name, PyObject *function)
{
    PyObject *found = NULL;
    int unbound = _PyObject_GetMethod(obj, name, &found);
    bool is = unbound == 1 && found == function;
    Py_XDECREF(found);
    if (HL_UNLIKELY(found == NULL)) {
        PyErr_Clear();
    }
    return is;
}

/* What an exact weakref.ref refers to, a new reference; NULL: it is dead. */
static inline PyObject *
hl_weakref_get(PyObject *ref)
{
#if PY_VERSION_HEX < 0x030D0000
    PyObject *obj = PyWeakref_GET_OBJECT(ref);
    return obj == Py_None ? NULL : Py_NewRef(obj);
#else
    PyObject *obj;
    return PyWeakref_GetRef(ref, &obj) > 0 ? obj : NULL;
#endif
}

/* Bytes that nobody else has seen, or has any more, become n bytes long: their memory
 * has room for that, and stays as it is. */
static inline void
hl_bytes_reshape(PyObject *op, Py_ssize_t n)
{
    PyBytesObject *b = (PyBytesObject *)op;
    assert(PyBytes_CheckExact(op) && n > 1);
    Py_SET_SIZE(b, n);
    b->ob_sval[n] = '\0';
    _Py_COMP_DIAG_PUSH _Py_COMP_DIAG_IGNORE_DEPR_DECLS b->ob_shash =
        -1; /* of what they were */
    _Py_COMP_DIAG_POP
}

/* Nobody in this interpreter could run Python code if this thread let go of the GIL. */
static inline bool
hl_only_thread(void)
{
#ifdef Py_GIL_DISABLED
    return false;
#else
    PyThreadState *newest = PyInterpreterState_ThreadHead(PyThreadState_Get()->interp);
    return PyThreadState_Next(newest) == NULL;
#endif
}

/* Nobody but the caller refers to op.  Without a GIL another thread may be about to. */
static inline bool
hl_only_ours(PyObject *op)
{
#ifdef Py_GIL_DISABLED
    (void)op;
    return false;
#else
    return Py_REFCNT(op) == 1;
#endif
}

/* Where a socket.socket keeps its descriptor (-1 once it is closed): right behind the
 * object's head, and after it the family.  NULL when `sock`, whose descriptor is fd,
 * does not look like that. */
static inline const int *
hl_socket_fd(PyObject *sock, int fd, int family)
{
    struct layout {
        PyObject_HEAD
        int fd, family;
    } *s = (struct layout *)sock;
    bool big = Py_TYPE(sock)->tp_basicsize >= (Py_ssize_t)sizeof(*s);
    return big && s->fd == fd && s->family == family ? &s->fd : NULL;
}

#endif

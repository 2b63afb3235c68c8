/* What only an interpreter without a GIL needs: locks, and reads that other threads
 * race with.  Under the GIL all of it is nothing.
 *
 * Objects have the interpreter's own lock, a critical section, which is given up for as
 * long as its thread waits for anything else: no order of locks to keep, but a section
 * is only whole as long as no Python code runs in it.  hl_mutex is for a few lines in
 * which none can, and no reference that may be the last is dropped. */
#ifndef HL_PY_LOCK_H
#define HL_PY_LOCK_H

#include "py/pycompat.h"

#ifdef Py_GIL_DISABLED
#define HL_FREE_THREADED 1
/* HL_LOCK(object); ... HL_UNLOCK(); is a block: no return, break or goto out of it. */
#define HL_LOCK(op) Py_BEGIN_CRITICAL_SECTION(op)
#define HL_UNLOCK() Py_END_CRITICAL_SECTION()
typedef PyMutex hl_mutex;
#define hl_mutex_lock(m) PyMutex_Lock(m)
#define hl_mutex_unlock(m) PyMutex_Unlock(m)
/* A field that another thread may look at or set: no order with others, never torn. */
#define HL_LOAD(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)
#define HL_STORE(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELAXED)
/* The same for a field that says that others have been filled in. */
#define HL_ACQUIRE(field) __atomic_load_n(&(field), __ATOMIC_ACQUIRE)
#define HL_RELEASE(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELEASE)
#define HL_COUNT(field) __atomic_add_fetch(&(field), 1, __ATOMIC_RELAXED)
#else
#define HL_FREE_THREADED 0
#define HL_LOCK(op)                                                                    \
    {                                                                                  \
        (void)(op)
#define HL_UNLOCK() }
typedef struct {
    char nothing;
} hl_mutex;
#define hl_mutex_lock(m) ((void)(m))
#define hl_mutex_unlock(m) ((void)(m))
#define HL_LOAD(field) (field)
#define HL_STORE(field, value) ((void)((field) = (value)))
#define HL_ACQUIRE(field) (field)
#define HL_RELEASE(field, value) ((void)((field) = (value)))
#define HL_COUNT(field) (++(field))
#endif

/* owner->field = value (stolen), under the owner's lock; the old one is dropped outside
 * of it, since that may run Python code. */
#define HL_SETREF(owner, field, value)                                                 \
    do {                                                                               \
        PyObject *hl_new = (value), *hl_old;                                           \
        HL_LOCK(owner);                                                                \
        hl_old = (field);                                                              \
        (field) = hl_new;                                                              \
        HL_UNLOCK();                                                                   \
        Py_XDECREF(hl_old);                                                            \
    } while (0)

/* For tables of methods and getters: under HL_LOCKED(f) stands f with the lock of its
 * object held, which is f itself where there is a GIL.  The wrapper is made by
 * HL_LOCKED_METHOD(f), HL_LOCKED_FAST(f) or HL_LOCKED_KEYWORDS(f), HL_LOCKED_GETTER(f)
 * or HL_LOCKED_SETTER(f) after the function. */
#if HL_FREE_THREADED
#define HL_LOCKED(f) f##_locked
#define HL_LOCKED_AS(type, f, params, args)                                            \
    static type f##_locked params                                                      \
    {                                                                                  \
        type result;                                                                   \
        HL_LOCK(op);                                                                   \
        result = f args;                                                               \
        HL_UNLOCK();                                                                   \
        return result;                                                                 \
    }
#else
#define HL_LOCKED(f) f
#define HL_LOCKED_AS(type, f, params, args)
#endif

#define HL_LOCKED_METHOD(f)                                                            \
    HL_LOCKED_AS(PyObject *, f, (PyObject * op, PyObject * arg), (op, arg))
#define HL_LOCKED_KEYWORDS(f)                                                          \
    HL_LOCKED_AS(PyObject *, f, (PyObject * op, PyObject * args, PyObject * kwargs),   \
                 (op, args, kwargs))
#define HL_LOCKED_FAST(f)                                                              \
    HL_LOCKED_AS(                                                                      \
        PyObject *, f,                                                                 \
        (PyObject * op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames),   \
        (op, args, nargs, kwnames))
#define HL_LOCKED_GETTER(f)                                                            \
    HL_LOCKED_AS(PyObject *, f, (PyObject * op, void *closure), (op, closure))
#define HL_LOCKED_SETTER(f)                                                            \
    HL_LOCKED_AS(int, f, (PyObject * op, PyObject * value, void *closure),             \
                 (op, value, closure))

#endif

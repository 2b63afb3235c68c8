/* The objects and memory that hotloop asks Python's allocators for by itself; in a
 * build for fault injection, sites that can be told to fail. */
#ifndef HL_PY_MEM_H
#define HL_PY_MEM_H

#include "core/mem.h"
#include "py/pycompat.h"

/* An object of one of our types, zeroed and tracked, or NULL with MemoryError. */
#define hl_type_alloc(type) HL_PY_ALLOC("tp_alloc", (type)->tp_alloc(type, 0))
/* As PyObject_GC_New(). */
#define hl_gc_new(T, type) ((T *)HL_PY_ALLOC("gc_new", PyObject_GC_New(T, type)))
#define hl_new_context() HL_PY_ALLOC("PyContext_New", PyContext_New())
/* NULL without an exception. */
#define hl_pymem_malloc(n) HL_PY_RAW("PyMem_Malloc", PyMem_Malloc(n))
#define hl_object_malloc(n) HL_PY_RAW("PyObject_Malloc", PyObject_Malloc(n))
#define hl_pymem_calloc(count, n) HL_PY_RAW("PyMem_Calloc", PyMem_Calloc(count, n))

#ifndef HL_FAULTS

#define HL_PY_ALLOC(name, call) (call)
#define HL_PY_RAW(name, call) (call)

#else

#define HL_PY_ALLOC(name, call)                                                        \
    (hl_fault_take(HL_SITE(name)) ? (void *)PyErr_NoMemory() : (void *)(call))
#define HL_PY_RAW(name, call) (hl_fault_take(HL_SITE(name)) ? NULL : (call))

#endif

/* An object with `head` bytes in front, zeroed and untracked, that does not count as an
 * allocation by which the collector decides when to run; NULL with MemoryError. */
static inline PyObject *
hl_gc_new_uncounted(PyTypeObject *type, size_t head)
{
    size_t size = head + (size_t)type->tp_basicsize;
    char *memory = hl_object_malloc(size);
    if (memory == NULL) {
        return PyErr_NoMemory();
    }
    memset(memory, 0, size);
    return PyObject_Init((PyObject *)(memory + head), type);
}
/* Frees the memory of an untracked object, however it was made, and does not count: if
 * it did, objects that never counted would put collections off. */
static inline void
hl_gc_free_uncounted(PyObject *op, size_t head)
{
    PyObject_Free((char *)op - head);
}

#endif

/* The memory that hotloop asks for by itself, without Python: malloc() and its kin, and
 * in a build for fault injection sites that can be told to fail.  py/mem.h has the same
 * for Python's allocators. */
#ifndef HL_CORE_MEM_H
#define HL_CORE_MEM_H

#include "core/base.h"
#include "core/fault.h"

#include <stdlib.h>

#ifndef HL_FAULTS

#define hl_malloc(n) malloc(n)
#define hl_calloc(count, n) calloc(count, n)
#define hl_realloc(p, n) realloc(p, n)

#else

#define hl_malloc(n) (hl_fault_take(HL_SITE("malloc")) ? NULL : malloc(n))
#define hl_calloc(count, n) (hl_fault_take(HL_SITE("calloc")) ? NULL : calloc(count, n))
#define hl_realloc(p, n) (hl_fault_take(HL_SITE("realloc")) ? NULL : realloc(p, n))

#endif
#endif

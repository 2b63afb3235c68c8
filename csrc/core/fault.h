/* Fault injection, in a build with -DHL_FAULTS only (make faults): every system call
 * and every allocation of ours is a site, and one site at a time can be armed to fail
 * its n-th call.  Any other build knows nothing of it: the wrappers of core/sys.h and
 * core/mem.h are then the calls themselves. */
#ifndef HL_CORE_FAULT_H
#define HL_CORE_FAULT_H

#include "core/base.h"

#ifdef HL_FAULTS

#define HL_FAULT_SHORT                                                                 \
    (-1) /* in place of an errno: the call does less than it could                     \
          */

/* One place in the source that makes a call.  What drives the faults reads this struct
 * by its layout (tests/faults/inject.py). */
typedef struct {
    const char *call, *file, *func;
    long line;
    long calls; /* since the last hl_fault_reset() */
    long fired;
} hl_site;

/* The site of the place where this stands.  The section gathers a pointer to each, so
 * that all of them can be listed, those that never run included. */
#define HL_SITE(name)                                                                  \
    ({                                                                                 \
        static hl_site site_ = {name, __FILE__, __func__, __LINE__, 0, 0};             \
        static hl_site *listed_ __attribute__((section("hl_sites"), used)) = &site_;   \
        (void)listed_;                                                                 \
        &site_;                                                                        \
    })

/* Counts a call: 0, or the errno (or HL_FAULT_SHORT) that it is to fail with.  From any
 * thread, without the GIL. */
int hl_fault_take(hl_site *site);

/* For a call of a library's: is this one to fail? */
#define HL_FAILS(name) (hl_fault_take(HL_SITE(name)) != 0)

/* For what drives the faults. */
#define HL_FAULT_API __attribute__((visibility("default")))
HL_FAULT_API long hl_fault_sites(void);
HL_FAULT_API hl_site *hl_fault_site(long index);
/* The nth call (from 1) of the site from now on fails; the one that was armed before is
 * not any more. */
HL_FAULT_API void hl_fault_arm(long index, long nth, int err);
/* Nothing is armed: how often what was armed has fired. */
HL_FAULT_API long hl_fault_disarm(void);
HL_FAULT_API void hl_fault_reset(void);

#else
#define HL_FAILS(name) false
#endif
#endif

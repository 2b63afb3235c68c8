/* What fails on demand: the table of sites, and the calls that ask it first.  Empty but
 * in a build for fault injection. */
#include "core/sys.h"

#ifdef HL_FAULTS

#include <stdlib.h>
#include <string.h>

/* The linker's names for the ends of the section that HL_SITE() fills. */
extern hl_site *__start_hl_sites[] __attribute__((visibility("hidden")));
extern hl_site *__stop_hl_sites[] __attribute__((visibility("hidden")));

/* One for the process, and written by the thread that drives the test while no call is
 * on its way; other threads only count. */
static struct {
    hl_site *site; /* NULL: nothing is armed */
    long left;     /* calls until it fires */
    int err;
    long fired;
} armed;

int
hl_fault_take(hl_site *site)
{
    __atomic_add_fetch(&site->calls, 1, __ATOMIC_RELAXED);
    if (HL_LIKELY(site != armed.site) ||
        __atomic_sub_fetch(&armed.left, 1, __ATOMIC_RELAXED) != 0) {
        return 0;
    }
    site->fired++;
    armed.fired++;
    return armed.err;
}

long
hl_fault_sites(void)
{
    return __stop_hl_sites - __start_hl_sites;
}

hl_site *
hl_fault_site(long index)
{
    return __start_hl_sites[index];
}

void
hl_fault_arm(long index, long nth, int err)
{
    assert(nth > 0 && err != 0);
    armed.left = nth;
    armed.err = err;
    armed.fired = 0;
    armed.site = hl_fault_site(index);
}

long
hl_fault_disarm(void)
{
    armed.site = NULL;
    return armed.fired;
}

void
hl_fault_reset(void)
{
    for (long i = 0; i < hl_fault_sites(); i++) {
        hl_fault_site(i)->calls = 0;
        hl_fault_site(i)->fired = 0;
    }
}

/* Does the errno say that what was asked for goes on all the same?  Then it has to. */
static bool
goes_on(const hl_site *site, int err)
{
    return (err == EINPROGRESS || err == EINTR) && strcmp(site->call, "connect") == 0;
}

/* The kernel does not see a call that fails, but for a connect() that goes on.  `less`
 * is the call that does part of it; where there is none, asking for it is the driver's
 * mistake. */
#define NEVER (abort(), (errno = EINVAL), -1)
#define DEFINE(result, name, params, call, less)                                       \
    result hl_faulty_##name(hl_site *site, HL_SYS_LIST params)                         \
    {                                                                                  \
        int err = hl_fault_take(site);                                                 \
        if (err == HL_FAULT_SHORT) {                                                   \
            return less;                                                               \
        }                                                                              \
        if (err != 0) {                                                                \
            if (goes_on(site, err)) {                                                  \
                (void)(call);                                                          \
            }                                                                          \
            errno = err;                                                               \
            return -1;                                                                 \
        }                                                                              \
        return call;                                                                   \
    }

HL_SYS_CALLS(DEFINE, NEVER)
#ifdef HL_LINUX
HL_SYS_CALLS_LINUX(DEFINE, NEVER)
#endif

int
hl_faulty_close(hl_site *site, int fd)
{
    int err = hl_fault_take(site);
    int rc = close(fd);
    if (err != 0) {
        errno = err;
        return -1;
    }
    return rc;
}

#else

typedef int hl_no_faults_here; /* ISO C wants a declaration in each file */

#endif

/* What every C test program shares: CHECK, a watchdog, and allocations that fail on
 * order.  Included once per program, by its main file.
 *
 * The programs are linked with -Wl,--wrap=malloc (and calloc, realloc), so the
 * functions below stand between the code under test and the C library. */
#ifndef HL_TESTS_CHECK_H
#define HL_TESTS_CHECK_H

#undef NDEBUG
#include "core/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(cond) check_that((cond), #cond, __FILE__, __LINE__, __func__)
/* Two integers are equal; says both when they are not. */
#define CHECK_EQ(a, b)                                                                 \
    check_equal((long long)(a), (long long)(b), #a " == " #b, __FILE__, __LINE__,      \
                __func__)
#define RUN(test) (test(), (void)printf("ok %s\n", #test))

static inline void
check_that(bool good, const char *what, const char *file, int line, const char *func)
{
    if (!good) {
        fprintf(stderr, "%s:%d: %s: %s\n", file, line, func, what);
        abort();
    }
}

static inline void
check_equal(long long a, long long b, const char *what, const char *file, int line,
            const char *func)
{
    if (a != b) {
        fprintf(stderr, "%s:%d: %s: %s, but %lld != %lld\n", file, line, func, what, a,
                b);
        abort();
    }
}

/* A wait that never returns must end the program, not the test run. */
static inline void
check_start(void)
{
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    (void)alarm(120);
}

/* Allocations to let through before all further ones fail; < 0: none fails. */
static int check_allocs_left = -1;

static inline bool
check_alloc_fails(void)
{
    if (check_allocs_left < 0) {
        return false;
    }
    if (check_allocs_left > 0) {
        check_allocs_left--;
        return false;
    }
    return true;
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);

void *
__wrap_malloc(size_t size)
{
    return check_alloc_fails() ? NULL : __real_malloc(size);
}

void *
__wrap_calloc(size_t n, size_t size)
{
    return check_alloc_fails() ? NULL : __real_calloc(n, size);
}

void *
__wrap_realloc(void *p, size_t size)
{
    return check_alloc_fails() ? NULL : __real_realloc(p, size);
}

/* xorshift64*: the same numbers on every system and in every run. */
static uint64_t check_seed = 0x9E3779B97F4A7C15u;

static inline uint32_t
check_random(uint32_t below)
{
    check_seed ^= check_seed >> 12;
    check_seed ^= check_seed << 25;
    check_seed ^= check_seed >> 27;
    return (uint32_t)((check_seed * 0x2545F4914F6CDD1Du) >> 33) % below;
}

#endif

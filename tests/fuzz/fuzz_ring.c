/* The ready ring against a model: what is pushed comes out, once, first in first out,
 * through growth, failed growth and the wrap-around of its free-running counters. */
#include "fuzz.h"

#include "core/ring.h"

#define MOST 20000

typedef struct {
    hl_ring r;
    size_t pushed, popped; /* the n-th entry carries n: the model is two numbers */
} model;

static void
check_entry(hl_entry e, size_t n)
{
    CHECK_EQ(e.tagged, (uintptr_t)n << 3 | (n % 5));
    CHECK(e.arg == (void *)(n * 7));
}

static void
push(model *m, bool fails)
{
    size_t n = m->pushed, len = hl_ring_len(&m->r), mask = m->r.mask;
    check_allocs_left = fails ? 0 : -1;
    int rc = hl_ring_push(&m->r, (uintptr_t)n << 3 | (n % 5), (void *)(n * 7));
    check_allocs_left = -1;
    if (rc < 0) {
        CHECK(fails && rc == -ENOMEM && len == mask + 1);
        CHECK(hl_ring_len(&m->r) == len && m->r.mask == mask);
        return;
    }
    m->pushed++;
}

static void
pop(model *m)
{
    if (m->pushed != m->popped) {
        check_entry(hl_ring_pop(&m->r), m->popped);
        m->popped++;
    }
}

static void
look(model *m, size_t i)
{
    size_t len = m->pushed - m->popped;
    CHECK_EQ(hl_ring_len(&m->r), len);
    CHECK(len <= m->r.mask + 1);
    if (len > 0) {
        check_entry(*hl_ring_at(&m->r, i % len), m->popped + i % len);
        check_entry(*hl_ring_at(&m->r, len - 1), m->pushed - 1);
    }
}

/* A turn of the loop: what was there at its begin is run, and each may push. */
static void
turn(model *m, unsigned pushes)
{
    for (size_t n = hl_ring_len(&m->r); n > 0; n--) {
        pop(m);
        for (unsigned i = 0; i < pushes && m->pushed - m->popped < MOST; i++) {
            push(m, false);
        }
    }
}

static void
fuzz_one(fuzz_input *in)
{
    model m = {0};
    CHECK_EQ(hl_ring_init(&m.r, (size_t)1 << (fuzz_byte(in) % 7)), 0);
    /* The counters may stand anywhere, also just before they wrap. */
    m.r.head = m.r.tail = (size_t)0 - fuzz_byte(in) * (fuzz_byte(in) % 9);
    while (in->left > 0) {
        unsigned op = fuzz_byte(in), n = fuzz_byte(in);
        switch (op % 7) {
        case 0:
            for (unsigned i = 0; i < n && m.pushed - m.popped < MOST; i++) {
                push(&m, false);
            }
            break;
        case 1:
            for (unsigned i = 0; i < n; i++) {
                pop(&m);
            }
            break;
        case 2:
            push(&m, true);
            break;
        case 3:
            turn(&m, n % 3);
            break;
        case 4: {
            check_allocs_left = n % 2 ? 0 : -1;
            size_t mask = m.r.mask;
            int rc = mask < MOST ? hl_ring_grow(&m.r) : 0;
            check_allocs_left = -1;
            CHECK(rc == 0 || (rc == -ENOMEM && n % 2 && m.r.mask == mask));
            break;
        }
        default:
            look(&m, n * 257u);
        }
        look(&m, op);
    }
    while (m.pushed != m.popped) {
        pop(&m);
    }
    CHECK_EQ(hl_ring_len(&m.r), 0);
    hl_ring_fini(&m.r);
}

#include "check.h"
#include "core/ring.h"

static void
test_order_across_growth(void)
{
    hl_ring r;
    CHECK_EQ(hl_ring_init(&r, 2), 0);
    uintptr_t in = 0, out = 0;
    for (int i = 0; i < 20000; i++) {
        /* Twice as many pushes as pops: it wraps round and grows again and again. */
        if (check_random(3) < 2) {
            in++;
            CHECK_EQ(hl_ring_push(&r, in << 3 | (in & HL_KIND_MASK), (void *)in), 0);
        }
        else if (hl_ring_len(&r) > 0) {
            hl_entry e = hl_ring_pop(&r);
            out++;
            CHECK(e.tagged == (out << 3 | (out & HL_KIND_MASK)));
            CHECK(e.arg == (void *)out);
        }
        CHECK_EQ(hl_ring_len(&r), in - out);
        if (hl_ring_len(&r) > 0) {
            size_t last = hl_ring_len(&r) - 1;
            CHECK(hl_ring_at(&r, 0)->arg == (void *)(out + 1));
            CHECK(hl_ring_at(&r, last)->arg == (void *)in);
        }
    }
    hl_ring_fini(&r);
}

static void
test_capacity_one(void)
{
    hl_ring r;
    CHECK_EQ(hl_ring_init(&r, 1), 0);
    for (uintptr_t i = 1; i <= 5; i++) {
        CHECK_EQ(hl_ring_push(&r, i << 3, NULL), 0);
    }
    for (uintptr_t i = 1; i <= 5; i++) {
        CHECK_EQ(hl_ring_pop(&r).tagged, i << 3);
    }
    CHECK_EQ(hl_ring_len(&r), 0);
    hl_ring_fini(&r);
}

static void
test_counters_pass_their_end(void)
{
    hl_ring r;
    CHECK_EQ(hl_ring_init(&r, 4), 0);
    r.head = r.tail = SIZE_MAX - 2;
    for (uintptr_t i = 1; i <= 9; i++) { /* wraps, and grows with the wrap inside */
        CHECK_EQ(hl_ring_push(&r, i << 3, NULL), 0);
    }
    CHECK_EQ(hl_ring_len(&r), 9);
    for (uintptr_t i = 1; i <= 9; i++) {
        CHECK_EQ(hl_ring_pop(&r).tagged, i << 3);
    }
    hl_ring_fini(&r);
}

static void
test_growth_keeps_the_counters(void)
{
    hl_ring r;
    CHECK_EQ(hl_ring_init(&r, 2), 0);
    CHECK_EQ(hl_ring_push(&r, 8, NULL), 0);
    (void)hl_ring_pop(&r);
    for (uintptr_t i = 1; i <= 2; i++) {
        CHECK_EQ(hl_ring_push(&r, i << 3, NULL), 0);
    }
    size_t head = r.head, mark = r.tail; /* where a turn would end */
    CHECK_EQ(hl_ring_push(&r, 3 << 3, NULL), 0);
    CHECK_EQ(r.head, head);
    CHECK_EQ(r.tail, mark + 1);
    hl_ring_fini(&r);
}

static void
test_no_memory(void)
{
    hl_ring r;
    check_allocs_left = 0;
    CHECK_EQ(hl_ring_init(&r, 4), -ENOMEM);
    check_allocs_left = -1;
    hl_ring_fini(&r); /* after a failed init too */

    CHECK_EQ(hl_ring_init(&r, 2), 0);
    CHECK_EQ(hl_ring_push(&r, 8, NULL), 0);
    CHECK_EQ(hl_ring_push(&r, 16, NULL), 0);
    check_allocs_left = 0;
    CHECK_EQ(hl_ring_push(&r, 24, NULL), -ENOMEM);
    CHECK_EQ(hl_ring_push(&r, 24, NULL), -ENOMEM);
    check_allocs_left = -1;
    CHECK_EQ(hl_ring_len(&r), 2);
    CHECK_EQ(hl_ring_push(&r, 24, NULL), 0);
    for (uintptr_t i = 1; i <= 3; i++) {
        CHECK_EQ(hl_ring_pop(&r).tagged, i * 8);
    }
    hl_ring_fini(&r);
    hl_ring_fini(&r); /* twice does no harm */
}

int
main(void)
{
    check_start();
    RUN(test_order_across_growth);
    RUN(test_capacity_one);
    RUN(test_counters_pass_their_end);
    RUN(test_growth_keeps_the_counters);
    RUN(test_no_memory);
    return 0;
}

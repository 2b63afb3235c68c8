#include "check.h"
#include "core/heap.h"

#include <math.h>

#define N 3000

static int
compare(const void *a, const void *b)
{
    const hl_timer *x = *(hl_timer *const *)a, *y = *(hl_timer *const *)b;
    if (x->when != y->when) {
        return x->when < y->when ? -1 : 1;
    }
    return x->seq < y->seq ? -1 : x->seq > y->seq;
}

/* Takes everything out and holds it against the same nodes, sorted. */
static void
drain_sorted(hl_heap *h)
{
    size_t n = h->len;
    hl_timer **ref = malloc((n + 1) * sizeof(*ref));
    for (size_t i = 0; i < n; i++) {
        ref[i] = h->v[i].node;
    }
    qsort(ref, n, sizeof(*ref), compare);
    for (size_t i = 0; i < n; i++) {
        CHECK(hl_heap_top(h) == ref[i]);
        CHECK(hl_heap_pop(h) == ref[i]);
        CHECK(ref[i]->index == HL_HEAP_OUT);
    }
    CHECK_EQ(h->len, 0);
    CHECK(hl_heap_top(h) == NULL);
    free(ref);
}

/* Random pushes, pops and removals; few distinct deadlines, so that ties abound. */
static void
churn(uint32_t deadlines)
{
    static hl_timer node[N];
    hl_heap h;
    hl_heap_init(&h);
    for (int i = 0; i < N; i++) {
        node[i].index = HL_HEAP_OUT;
    }
    for (int i = 0; i < 30000; i++) {
        hl_timer *t = &node[check_random(N)];
        if (t->index == HL_HEAP_OUT) {
            t->when = check_random(deadlines) / 8.0;
            CHECK_EQ(hl_heap_push(&h, t), 0);
        }
        else if (check_random(4) == 0) {
            hl_timer *top = hl_heap_top(&h);
            CHECK(hl_heap_pop(&h) == top);
            CHECK(top->index == HL_HEAP_OUT);
        }
        else {
            hl_heap_remove(&h, t);
            CHECK(t->index == HL_HEAP_OUT);
        }
        if (i % 64 == 0) {
            CHECK(hl_heap_check(&h));
        }
    }
    CHECK(hl_heap_check(&h));
    drain_sorted(&h);
    hl_heap_fini(&h);
}

static void
test_random(void)
{
    churn(1);
    churn(5);
    churn(1000000);
}

static void
test_equal_deadlines_keep_their_order(void)
{
    static hl_timer node[500];
    hl_heap h;
    hl_heap_init(&h);
    for (int i = 0; i < 500; i++) {
        node[i].when = i % 2 ? 0.0 : -0.0; /* equal, whatever the sign */
        CHECK_EQ(hl_heap_push(&h, &node[i]), 0);
    }
    for (int i = 0; i < 500; i++) {
        CHECK(hl_heap_pop(&h) == &node[i]);
    }
    /* What is pushed again queues up at the end. */
    hl_timer a = {.when = 1.0}, b = {.when = 1.0};
    CHECK_EQ(hl_heap_push(&h, &a), 0);
    CHECK_EQ(hl_heap_push(&h, &b), 0);
    hl_heap_remove(&h, &a);
    CHECK_EQ(hl_heap_push(&h, &a), 0);
    CHECK(hl_heap_pop(&h) == &b);
    CHECK(hl_heap_pop(&h) == &a);
    hl_heap_fini(&h);
}

static void
test_odd_deadlines(void)
{
    hl_timer node[5] = {{.when = INFINITY},
                        {.when = 1e308},
                        {.when = -INFINITY},
                        {.when = -1.0},
                        {.when = 5e-324}};
    const int order[5] = {2, 3, 4, 1, 0};
    hl_heap h;
    hl_heap_init(&h);
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(hl_heap_push(&h, &node[i]), 0);
    }
    CHECK(hl_heap_check(&h));
    for (int i = 0; i < 5; i++) {
        CHECK(hl_heap_pop(&h) == &node[order[i]]);
    }
    hl_heap_fini(&h);
}

/* Every place of a small heap, so that the hole is filled from above and from below. */
static void
test_remove_everywhere(void)
{
    for (int n = 1; n <= 30; n++) {
        for (int out = 0; out < n; out++) {
            hl_timer node[30];
            hl_heap h;
            hl_heap_init(&h);
            for (int i = 0; i < n; i++) {
                node[i].when = check_random(12);
                CHECK_EQ(hl_heap_push(&h, &node[i]), 0);
            }
            hl_heap_remove(&h, h.v[out].node);
            CHECK_EQ(h.len, n - 1);
            CHECK(hl_heap_check(&h));
            drain_sorted(&h);
            hl_heap_fini(&h);
        }
    }
}

static void
test_a_burst_gives_its_memory_back(void)
{
    enum { BURST = 100000 };
    hl_timer *node = calloc(BURST, sizeof(*node));
    hl_heap h;
    hl_heap_init(&h);
    for (int i = 0; i < BURST; i++) {
        node[i].when = check_random(1000);
        CHECK_EQ(hl_heap_push(&h, &node[i]), 0);
    }
    size_t peak = h.cap;
    for (int i = 0; i < BURST; i += 2) {
        hl_heap_remove(&h, &node[i]);
    }
    check_allocs_left = 0; /* giving back may fail: nobody notices */
    for (int i = 0; i < BURST / 4; i++) {
        (void)hl_heap_pop(&h);
    }
    check_allocs_left = -1;
    CHECK(hl_heap_check(&h));
    drain_sorted(&h);
    CHECK(h.cap < peak / 8);
    hl_heap_fini(&h);
    free(node);
}

static void
test_no_memory(void)
{
    static hl_timer node[65];
    hl_timer extra = {.when = -1.0, .index = HL_HEAP_OUT};
    hl_heap h;
    hl_heap_init(&h);
    check_allocs_left = 0;
    CHECK_EQ(hl_heap_push(&h, &extra), -ENOMEM);
    check_allocs_left = -1;
    CHECK(extra.index == HL_HEAP_OUT);
    CHECK(hl_heap_top(&h) == NULL);
    size_t n = 0;
    do {
        node[n].when = (double)n;
        CHECK_EQ(hl_heap_push(&h, &node[n]), 0);
    } while (++n < h.cap);
    check_allocs_left = 0;
    CHECK_EQ(hl_heap_push(&h, &extra), -ENOMEM);
    check_allocs_left = -1;
    CHECK(extra.index == HL_HEAP_OUT);
    CHECK_EQ(h.len, n);
    CHECK(hl_heap_check(&h));
    CHECK_EQ(hl_heap_push(&h, &extra), 0);
    CHECK(hl_heap_pop(&h) == &extra);
    drain_sorted(&h);
    hl_heap_fini(&h);
}

static void
test_fini_lets_the_nodes_go(void)
{
    hl_timer a = {.when = 1.0}, b = {.when = 2.0};
    hl_heap h;
    hl_heap_init(&h);
    CHECK_EQ(hl_heap_push(&h, &a), 0);
    CHECK_EQ(hl_heap_push(&h, &b), 0);
    hl_heap_fini(&h);
    CHECK(a.index == HL_HEAP_OUT && b.index == HL_HEAP_OUT);
    hl_heap_fini(&h);
}

int
main(void)
{
    check_start();
    RUN(test_random);
    RUN(test_equal_deadlines_keep_their_order);
    RUN(test_odd_deadlines);
    RUN(test_remove_everywhere);
    RUN(test_a_burst_gives_its_memory_back);
    RUN(test_no_memory);
    RUN(test_fini_lets_the_nodes_go);
    return 0;
}

/* The timer heap against a model that keeps the timers in a plain array: what comes out
 * is the earliest, and of equal ones the oldest, whatever left before its time. */
#include "fuzz.h"

#include "core/heap.h"

#include <math.h>

#define MOST 6000 /* more than the size above which the heap gives memory back */

typedef struct {
    hl_timer node;
    uint64_t born;
    double when;
    bool in;
} timer;

typedef struct {
    hl_heap h;
    timer t[MOST];
    size_t len, top; /* t[top..] have never been used */
    unsigned next;   /* where the next timer is looked for */
    uint64_t born;
} model;

/* Few different deadlines, so that many are equal; and the strange ones. */
static double
deadline(unsigned b)
{
    static const double odd[] = {-0.0, 0.0, INFINITY, -INFINITY, 1e308, -1.5};
    return b < 32 ? odd[b % 6] : (double)(b % 61) / 4;
}

static void
push(model *m, unsigned b, bool fails)
{
    if (m->len == MOST) {
        return;
    }
    while (m->t[m->next].in) { /* there is one that is out */
        m->next = (m->next + 1) % MOST;
    }
    timer *t = &m->t[m->next];
    t->node = (hl_timer){.when = deadline(b), .index = HL_HEAP_OUT};
    t->when = t->node.when;
    CHECK(!hl_heap_holds(&m->h, &t->node));
    check_allocs_left = fails ? 0 : -1;
    int rc = hl_heap_push(&m->h, &t->node);
    check_allocs_left = -1;
    if (rc < 0) {
        CHECK(fails && rc == -ENOMEM && t->node.index == HL_HEAP_OUT);
        return;
    }
    t->born = m->born++;
    t->in = true;
    m->len++;
    m->top = m->next >= m->top ? m->next + 1 : m->top;
}

static void
left(model *m, timer *t)
{
    CHECK(t->in && t->node.index == HL_HEAP_OUT && !hl_heap_holds(&m->h, &t->node));
    t->in = false;
    m->len--;
}

static bool
earlier(const timer *a, const timer *b)
{
    return a->when < b->when || (a->when == b->when && a->born < b->born);
}

/* Is it the one that the model would take? */
static void
check_first(const model *m, const timer *first)
{
    CHECK(first->in);
    for (size_t i = 0; i < m->top; i++) {
        CHECK(!m->t[i].in || &m->t[i] == first || earlier(first, &m->t[i]));
    }
}

/* The first of a row is compared with all, each further one with the one before: that
 * is enough, since nothing was put in between. */
static void
pop(model *m, unsigned n)
{
    timer *before = NULL;
    for (; n > 0 && m->len > 0; n--) {
        timer *t = hl_container_of(hl_heap_top(&m->h), timer, node);
        if (before == NULL) {
            check_first(m, t);
        }
        else {
            CHECK(earlier(before, t));
        }
        CHECK(hl_heap_pop(&m->h) == &t->node);
        left(m, t);
        before = t;
    }
}

static void
cancel(model *m, unsigned at, unsigned n)
{
    for (size_t i = m->top ? at * 23 % m->top : 0; n > 0 && m->len > 0;
         i = (i + 1) % m->top) {
        timer *t = &m->t[i];
        if (t->in) {
            CHECK(hl_heap_holds(&m->h, &t->node));
            hl_heap_remove(&m->h, &t->node);
            left(m, t);
            n--;
        }
    }
}

static void
step(model *m, fuzz_input *in)
{
    unsigned op = fuzz_byte(in), b = fuzz_byte(in);
    switch (op % 8) {
    case 0:
    case 1:
        push(m, b, false);
        break;
    case 2:
        push(m, b, true);
        break;
    case 3:
        pop(m, 1 + b % 4);
        break;
    case 4:
        cancel(m, b, 1 + op / 64);
        break;
    case 5: /* a burst, as of a thousand connections with a timeout each */
        for (unsigned i = 0; i < (op / 32) * (op / 32) * (op / 32) * 15; i++) {
            push(m, b + i * (op % 3), false);
        }
        break;
    case 6:
        pop(m, b * 16);
        break;
    default:
        cancel(m, op, b * 16);
    }
    CHECK(hl_heap_check(&m->h) && m->h.len == m->len);
}

static void
fuzz_one(fuzz_input *in)
{
    model *m = calloc(1, sizeof(*m));
    CHECK(m != NULL);
    hl_heap_init(&m->h);
    for (int steps = 0; in->left > 0 && steps < 100; steps++) {
        step(m, in);
    }
    pop(m, m->len > 64 ? 64 : MOST);
    hl_heap_fini(&m->h);
    for (size_t i = 0; i < m->top; i++) { /* handles outlive the loop */
        CHECK(!m->t[i].in || m->t[i].node.index == HL_HEAP_OUT);
    }
    free(m);
}

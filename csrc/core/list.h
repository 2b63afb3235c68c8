/* Intrusive doubly linked list.  An unlinked node points to itself, so that removing it
 * twice does no harm.  The list owns nothing.  The order of the fields is CPython's:
 * registry.c links nodes into a list of its. */
#ifndef HL_CORE_LIST_H
#define HL_CORE_LIST_H

#include "core/base.h"

typedef struct hl_node {
    struct hl_node *next, *prev;
} hl_node;

/* Also what makes an unlinked node: it is its own neighbour. */
static inline void
hl_list_init(hl_node *n)
{
    n->prev = n->next = n;
}

static inline bool
hl_list_empty(const hl_node *head)
{
    return head->next == head;
}

/* Puts an unlinked node at the end. */
static inline void
hl_list_push(hl_node *head, hl_node *n)
{
    n->next = head;
    n->prev = head->prev;
    n->prev->next = n;
    head->prev = n;
}

/* Nobody needs to know which list it is. */
static inline void
hl_list_remove(hl_node *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    hl_list_init(n);
}

#endif

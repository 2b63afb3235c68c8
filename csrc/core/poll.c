/* The list of backends and the choice among them. */
#include "core/poll.h"

#include <string.h>

#define ENTRY(name) &hl_poll_##name,
const hl_poll_ops *const hl_poll_backends[] = {HL_POLL_BACKENDS(ENTRY) NULL};
#undef ENTRY

/* Does the kernel have this one?  Being out of descriptors or memory is no reason to
 * take a lesser backend without a word: the caller's own open() then reports it. */
static bool
is_there(const hl_poll_ops *ops)
{
    hl_poll *p;
    int rc = ops->open(&p);
    if (rc == 0) {
        ops->close(p);
    }
    return rc == 0 || rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM;
}

/* A name is taken at its word: whether the kernel has it shows when it is opened. */
const hl_poll_ops *
hl_poll_find(const char *name)
{
    for (const hl_poll_ops *const *b = hl_poll_backends; *b != NULL; b++) {
        if (name != NULL ? strcmp((*b)->name, name) == 0 : is_there(*b)) {
            return *b;
        }
    }
    return NULL;
}

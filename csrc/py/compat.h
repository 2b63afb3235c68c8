/* Proof, at import, that the structures of pycompat.h are those of this interpreter. */
#ifndef HL_PY_COMPAT_H
#define HL_PY_COMPAT_H

#include "py/state.h"

/* 1: the layouts agree; 0: they do not, and a RuntimeWarning was issued (our Future and
 * Task are then left out); -1 with an exception. */
int hl_compat_check(hl_state *st);

#endif

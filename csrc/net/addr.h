/* Socket addresses, kept as the kernel gave them and turned into Python's form on
 * demand: most connections are never asked for theirs. */
#ifndef HL_NET_ADDR_H
#define HL_NET_ADDR_H

#include "py/state.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

typedef union {
    struct sockaddr any;
    struct sockaddr_in in4;
    struct sockaddr_in6 in6;
    struct sockaddr_un un;
    struct sockaddr_storage room;
} hl_sockaddr;

/* What a transport keeps: IPv4 and IPv6 only (len 0: nothing kept). */
typedef struct {
    union {
        struct sockaddr any;
        struct sockaddr_in in4;
        struct sockaddr_in6 in6;
    } u;
    socklen_t len;
} hl_inaddr;

/* Keeps addr if it is an IP address: true; otherwise *out is empty. */
bool hl_inaddr_set(hl_inaddr *out, const struct sockaddr *addr, socklen_t len);

/* The address as the socket module shows it; for a family that it does not know itself,
 * NULL without an exception. */
PyObject *hl_addr_to_py(const struct sockaddr *addr, socklen_t len);

/* What socket.getaddrinfo(*args) gives, all six of them, where a numeric address and
 * its socket type leave no doubt; NULL without an exception where they do. */
PyObject *hl_addr_literal(hl_state *st, PyObject *const *args);

#endif

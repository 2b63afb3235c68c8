/* From sockaddr to the tuples of the socket module. */
#include "net/addr.h"
#include "core/base.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <string.h>

/* Only what can be turned into Python's form without asking anybody is kept like this.
 */
bool
hl_inaddr_set(hl_inaddr *out, const struct sockaddr *addr, socklen_t len)
{
    out->len = 0;
    if ((addr->sa_family == AF_INET && len >= sizeof(struct sockaddr_in)) ||
        (addr->sa_family == AF_INET6 && len >= sizeof(struct sockaddr_in6))) {
        out->len = len < sizeof(out->u) ? len : (socklen_t)sizeof(out->u);
        memcpy(&out->u, addr, out->len);
        return true;
    }
    return false;
}

/* A Unix path: unnamed is '', an abstract name (Linux only) is bytes with its leading
 * zero. */
static PyObject *
unix_to_py(const struct sockaddr_un *un, socklen_t len)
{
    size_t off = offsetof(struct sockaddr_un, sun_path);
    size_t n = len > off ? len - off : 0;
#ifdef __linux__
    if (n > 0 && un->sun_path[0] == 0) {
        return PyBytes_FromStringAndSize(un->sun_path, (Py_ssize_t)n);
    }
#endif
    return PyUnicode_DecodeFSDefaultAndSize(un->sun_path,
                                            (Py_ssize_t)strnlen(un->sun_path, n));
}

/* As the socket module shows addresses; the text of an IPv6 address has no scope in it,
 * which is the fourth number.  NULL without an exception: a family that it knows more
 * about. */
PyObject *
hl_addr_to_py(const struct sockaddr *addr, socklen_t len)
{
    char text[INET6_ADDRSTRLEN];
    if (addr->sa_family == AF_INET && len >= sizeof(struct sockaddr_in)) {
        const struct sockaddr_in *a = (const struct sockaddr_in *)addr;
        inet_ntop(AF_INET, &a->sin_addr, text, sizeof(text));
        return Py_BuildValue("(si)", text, (int)ntohs(a->sin_port));
    }
    if (addr->sa_family == AF_INET6 && len >= sizeof(struct sockaddr_in6)) {
        const struct sockaddr_in6 *a = (const struct sockaddr_in6 *)addr;
        inet_ntop(AF_INET6, &a->sin6_addr, text, sizeof(text));
        return Py_BuildValue("(siII)", text, (int)ntohs(a->sin6_port),
                             (unsigned int)ntohl(a->sin6_flowinfo),
                             (unsigned int)a->sin6_scope_id);
    }
    if (addr->sa_family == AF_UNIX) {
        return unix_to_py((const struct sockaddr_un *)addr, len);
    }
    return NULL;
}

/* ---- getaddrinfo() of a numeric address ---- */

/* Of any int, IntEnums too: -1 for what is none or does not fit. */
static long
number(PyObject *op)
{
    long n = PyLong_Check(op) ? PyLong_AsLong(op) : -1;
    if (n == -1) {
        PyErr_Clear();
    }
    return n;
}

/* The host alone: true if it is an address of the family, or of either.  What
 * inet_pton() does not take but the C library does, such as "127.1" or a zone, is left
 * to that. */
static bool
numeric_host(hl_inaddr *to, PyObject *op, long family)
{
    Py_ssize_t len;
    const char *host =
        PyUnicode_CheckExact(op) ? PyUnicode_AsUTF8AndSize(op, &len) : NULL;
    if (host == NULL || (size_t)len != strlen(host)) {
        PyErr_Clear();
        return false;
    }
    memset(to, 0, sizeof(*to));
    if ((family == AF_UNSPEC || family == AF_INET) &&
        inet_pton(AF_INET, host, &to->u.in4.sin_addr) == 1) {
        to->u.in4.sin_family = AF_INET;
        to->len = sizeof(to->u.in4);
    }
    else if ((family == AF_UNSPEC || family == AF_INET6) &&
             inet_pton(AF_INET6, host, &to->u.in6.sin6_addr) == 1) {
        to->u.in6.sin6_family = AF_INET6;
        to->len = sizeof(to->u.in6);
    }
    return to->len > 0;
}

/* [(family, type, proto, '', address)]; address is stolen, and may be NULL. */
static PyObject *
answer(PyObject *family, PyObject *type, long proto, PyObject *address)
{
    PyObject *number_of = PyLong_FromLong(proto), *name = PyUnicode_New(0, 0);
    PyObject *info = NULL, *list = NULL;
    if (address != NULL && number_of != NULL && name != NULL &&
        (list = PyList_New(1)) != NULL) {
        info = PyTuple_Pack(5, family, type, number_of, name, address);
    }
    Py_XDECREF(address);
    Py_XDECREF(number_of);
    Py_XDECREF(name);
    if (info == NULL) {
        Py_CLEAR(list);
    }
    else {
        PyList_SET_ITEM(list, 0, info);
    }
    return list;
}

/* The flags that change nothing about an address. */
#define PLAIN_FLAGS (AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV)

/* Without a socket type there would be an answer for each that the C library knows.
 * Whoever audits hears of it as from the socket module. */
PyObject *
hl_addr_literal(hl_state *st, PyObject *const *args)
{
    long port = PyLong_CheckExact(args[1]) ? number(args[1]) : -1;
    long family = number(args[2]), type = number(args[3]), proto = number(args[4]);
    long flags = number(args[5]),
         named = type == SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP;
    hl_inaddr to;
    if (port < 0 || port > 65535 || (type != SOCK_STREAM && type != SOCK_DGRAM) ||
        (proto != 0 && proto != named) || flags < 0 || (flags & ~PLAIN_FLAGS) != 0 ||
        !numeric_host(&to, args[0], family)) {
        return NULL;
    }
    if (PySys_Audit("socket.getaddrinfo", "OOiii", args[0], args[1], (int)family,
                    (int)type, (int)proto) < 0) {
        return NULL;
    }
    bool four = to.u.any.sa_family == AF_INET;
    *(four ? &to.u.in4.sin_port : &to.u.in6.sin6_port) = htons((uint16_t)port);
    return answer(four ? st->i_af_inet : st->i_af_inet6,
                  type == SOCK_STREAM ? st->i_sock_stream : st->i_sock_dgram, named,
                  hl_addr_to_py(&to.u.any, to.len));
}

/* From sockaddr to the tuples of the socket module. */
#include "net/addr.h"
#include "core/base.h"

#include <arpa/inet.h>
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
#ifdef HL_LINUX
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

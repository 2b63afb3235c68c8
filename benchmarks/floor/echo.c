/* The floor: what the echo rows cost without Python, both ends on one epoll.
 *
 *   echo KIND SIZE CONNECTIONS WRITES COUNT     KIND: tcp, unix, udp or bulk
 *
 * tcp, unix, udp: COUNT round trips of SIZE bytes, spread over CONNECTIONS, the reply
 * in WRITES pieces (2: the first of 100 bytes). bulk: COUNT MiB one way, in writes of
 * SIZE. Prints the nanoseconds per operation, by the clock and of CPU time: {"wall":
 * [..], "cpu": [..]}.
 *
 * It does what every loop must, and no more: an epoll_wait, and one read and one write
 * per message and end.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_CONNECTIONS = 64,
    MAX_ENDS = 2 * MAX_CONNECTIONS,
    READ_SIZE = 256 * 1024,
    MIB = 1 << 20
};

/* One end of a connection: a server's sends back what it reads, a client's counts what
 * returns. */
typedef struct {
    int fd;
    bool is_client;
    size_t missing;          /* client: of the message under way */
    long rounds;             /* client: still to do */
    struct sockaddr_in peer; /* datagram server: who asked */
    char *unsent; /* what a full socket has not taken: [unsent_from, unsent_to) */
    size_t unsent_from,
        unsent_to; /* never over two messages: one is under way at a time */
} end_t;

static struct {
    end_t ends[MAX_ENDS];
    int epoll_fd;
    bool datagrams;
    int writes;
    size_t size;
    char *message;
    long running; /* clients that have rounds to do */
    char buffer[READ_SIZE];
} the;

static void
die(const char *what)
{
    perror(what);
    exit(1);
}

static void
watch(end_t *end, int operation, unsigned events)
{
    struct epoll_event event = {.events = events, .data.ptr = end};
    if (epoll_ctl(the.epoll_fd, operation, end->fd, &event) < 0) {
        die("epoll_ctl");
    }
}

/* ---- reading and writing
 * ------------------------------------------------------------------ */

static ssize_t
send_now(end_t *end, const char *data, size_t size)
{
    ssize_t sent;
    if (the.datagrams && !end->is_client) {
        sent = sendto(end->fd, data, size, 0, (struct sockaddr *)&end->peer,
                      sizeof end->peer);
    }
    else {
        sent = send(end->fd, data, size, MSG_NOSIGNAL);
    }
    if (sent < 0 && errno != EAGAIN) {
        die("send");
    }
    return sent < 0 ? 0 : sent;
}

static ssize_t
receive_now(end_t *end)
{
    socklen_t length = sizeof end->peer;
    ssize_t size;
    if (the.datagrams && !end->is_client) {
        size = recvfrom(end->fd, the.buffer, READ_SIZE, 0,
                        (struct sockaddr *)&end->peer, &length);
    }
    else {
        size = recv(end->fd, the.buffer, READ_SIZE, 0);
    }
    if (size < 0 && errno != EAGAIN) {
        die("recv");
    }
    return size;
}

static void
put(end_t *end, const char *data, size_t size)
{
    if (end->unsent_from == end->unsent_to) {
        size_t sent = (size_t)send_now(end, data, size);
        if (sent == size) {
            return;
        }
        data += sent;
        size -= sent;
        watch(end, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    }
    memcpy(end->unsent + end->unsent_to, data, size);
    end->unsent_to += size;
}

static void
put_rest(end_t *end)
{
    size_t size = end->unsent_to - end->unsent_from;
    end->unsent_from += (size_t)send_now(end, end->unsent + end->unsent_from, size);
    if (end->unsent_from == end->unsent_to) {
        end->unsent_from = end->unsent_to = 0;
        watch(end, EPOLL_CTL_MOD, EPOLLIN);
    }
}

/* ---- the two ends
 * --------------------------------------------------------------------------- */

static void
answer(end_t *end, size_t size)
{
    size_t head = the.writes == 2 && size > 100 ? 100 : 0;
    if (head > 0) {
        put(end, the.buffer, head);
    }
    put(end, the.buffer + head, size - head);
}

static void
count(end_t *end, size_t size)
{
    end->missing -= size;
    if (end->missing > 0) {
        return;
    }
    end->missing = the.size;
    if (--end->rounds > 0) {
        put(end, the.message, the.size);
    }
    else {
        the.running--;
    }
}

static void
turn(void)
{
    struct epoll_event events[MAX_ENDS];
    int ready = epoll_wait(the.epoll_fd, events, MAX_ENDS, -1);
    for (int i = 0; i < ready; i++) {
        end_t *end = events[i].data.ptr;
        if (events[i].events & EPOLLOUT) {
            put_rest(end);
        }
        ssize_t size = events[i].events & EPOLLIN ? receive_now(end) : -1;
        if (size < 0) {
            continue;
        }
        if (end->is_client) {
            count(end, (size_t)size);
        }
        else {
            answer(end, (size_t)size);
        }
    }
}

static void
round_trips(int connections, long each)
{
    the.running = connections;
    for (int i = 0; i < connections; i++) {
        the.ends[2 * i].rounds = each;
        put(&the.ends[2 * i], the.message, the.size);
    }
    while (the.running > 0) {
        turn();
    }
}

/* One way only: the client writes when it may, the server reads. */
static void
bulk(long mib)
{
    size_t to_send = (size_t)mib * MIB, to_come = to_send;
    end_t *client = &the.ends[0], *server = &the.ends[1];
    watch(client, EPOLL_CTL_MOD, EPOLLOUT);
    while (to_come > 0) {
        struct epoll_event events[2];
        int ready = epoll_wait(the.epoll_fd, events, 2, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.ptr == server) {
                to_come -= (size_t)receive_now(server);
                continue;
            }
            to_send -= (size_t)send_now(client, the.message,
                                        to_send < the.size ? to_send : the.size);
            if (to_send == 0) {
                watch(client, EPOLL_CTL_MOD, 0);
            }
        }
    }
}

/* ---- set-up
 * -----------------------------------------------------------------------------------
 */

static void
make_pair(int family, int type, int pair[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr *any = (struct sockaddr *)&address;
    socklen_t length = sizeof address;
    if (family == AF_UNIX) {
        if (socketpair(AF_UNIX, type, 0, pair) < 0) {
            die("socketpair");
        }
        return;
    }
    int listener = socket(AF_INET, type, 0);
    pair[0] = socket(AF_INET, type, 0);
    if (listener < 0 || pair[0] < 0 || bind(listener, any, length) < 0) {
        die("bind");
    }
    if (type == SOCK_STREAM && listen(listener, 1) < 0) {
        die("listen");
    }
    if (getsockname(listener, any, &length) < 0 || connect(pair[0], any, length) < 0) {
        die("connect");
    }
    pair[1] = listener;
    if (type == SOCK_STREAM) {
        pair[1] = accept(listener, NULL, NULL);
        close(listener);
        for (int i = 0, one = 1; i < 2; i++) {
            setsockopt(pair[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        }
    }
}

static void
add_pair(int index, int family, int type)
{
    int pair[2] = {-1, -1};
    make_pair(family, type, pair);
    for (int i = 0; i < 2; i++) {
        end_t *end = &the.ends[2 * index + i];
        int flags = fcntl(pair[i], F_GETFL);
        end->fd = pair[i];
        end->is_client = i == 0;
        end->missing = the.size;
        end->unsent = malloc(2 * the.size + READ_SIZE);
        if (flags < 0 || fcntl(pair[i], F_SETFL, flags | O_NONBLOCK) < 0 ||
            end->unsent == NULL) {
            die("set-up");
        }
        watch(end, EPOLL_CTL_ADD, EPOLLIN);
    }
}

static double
seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int
main(int argc, char **argv)
{
    if (argc != 6) {
        return fputs("usage: echo tcp|unix|udp|bulk SIZE CONNECTIONS WRITES COUNT\n",
                     stderr),
               2;
    }
    const char *kind = argv[1];
    bool is_bulk = strcmp(kind, "bulk") == 0;
    int connections = atoi(argv[3]);
    long operations = atol(argv[5]), each = operations / connections;
    the.size = (size_t)atol(argv[2]);
    the.writes = atoi(argv[4]);
    the.datagrams = strcmp(kind, "udp") == 0;
    if (connections < 1 || connections > MAX_CONNECTIONS || the.size < 1 ||
        operations < 1) {
        return fputs("echo: a number out of range\n", stderr), 2;
    }
    the.message = calloc(1, the.size);
    the.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < connections; i++) {
        add_pair(i, strcmp(kind, "unix") == 0 ? AF_UNIX : AF_INET,
                 the.datagrams ? SOCK_DGRAM : SOCK_STREAM);
    }
    each = each > 0 ? each : 1;
    if (!is_bulk) {
        round_trips(connections, each < 100 ? each : 100);
    }
    double wall = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    if (is_bulk) {
        bulk(operations);
    }
    else {
        round_trips(connections, each);
    }
    cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    wall = seconds(CLOCK_MONOTONIC) - wall;
    double done = is_bulk ? (double)operations : (double)each * connections;
    printf("{\"wall\": [%.1f], \"cpu\": [%.1f]}\n", wall / done * 1e9,
           cpu / done * 1e9);
    return 0;
}

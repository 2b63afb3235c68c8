#include "check.h"
#include "core/sigpair.h"

#include <fcntl.h>

static void
bytes_go_through(void)
{
    hl_sigpair p;
    unsigned char buf[8];
    CHECK_EQ(hl_sigpair_open(&p), 0);
    CHECK_EQ(p.users, 0);
    CHECK_EQ(p.old.fd, -1);
    CHECK_EQ(p.pid, getpid());
    CHECK(!p.installed);
    CHECK(fcntl(p.wfd, F_GETFL) & O_NONBLOCK);
    CHECK(fcntl(p.rfd, F_GETFL) & O_NONBLOCK);
    CHECK(fcntl(p.wfd, F_GETFD) & FD_CLOEXEC);
    CHECK(fcntl(p.rfd, F_GETFD) & FD_CLOEXEC);
    CHECK_EQ(hl_sigpair_read(&p, buf, sizeof(buf)), 0);
    CHECK_EQ(write(p.wfd, "\2\12", 2), 2);
    CHECK_EQ(hl_sigpair_read(&p, buf, sizeof(buf)), 2);
    CHECK(buf[0] == 2 && buf[1] == 10);
    CHECK_EQ(hl_sigpair_read(&p, buf, sizeof(buf)), 0);
    hl_sigpair_close(&p);
    CHECK_EQ(p.users, 0);
}

/* A number that another file has got meanwhile is not written to. */
static void
forwards_to_the_same_file_only(void)
{
    int one[2], two[2];
    char buf[8];
    CHECK_EQ(pipe2(one, O_NONBLOCK), 0);
    CHECK_EQ(pipe2(two, O_NONBLOCK), 0);
    hl_fdid id = hl_fdid_of(one[1]);
    CHECK_EQ(id.fd, one[1]);
    CHECK(hl_fdid_valid(id));
    hl_fdid_forward(id, (const unsigned char *)"abc", 3);
    CHECK_EQ(read(one[0], buf, sizeof(buf)), 3);
    CHECK_EQ(dup2(two[1], one[1]), one[1]);
    CHECK(!hl_fdid_valid(id));
    hl_fdid_forward(id, (const unsigned char *)"abc", 3);
    CHECK_EQ(read(two[0], buf, sizeof(buf)), -1);
    CHECK_EQ(errno, EAGAIN);
    close(one[1]);
    CHECK(!hl_fdid_valid(id));
    CHECK_EQ(hl_fdid_of(one[1]).fd, -1);
    CHECK(!hl_fdid_valid(hl_fdid_of(-1)));
    close(one[0]);
    close(two[0]);
    close(two[1]);
}

static void
full_pipe_is_no_error(void)
{
    int ends[2];
    unsigned char block[4096] = {0};
    CHECK_EQ(pipe2(ends, O_NONBLOCK), 0);
    hl_fdid id = hl_fdid_of(ends[1]);
    for (int i = 0; i < 100; i++) {
        hl_fdid_forward(id, block, sizeof(block));
    }
    close(ends[0]);
    close(ends[1]);
}

int
main(void)
{
    RUN(bytes_go_through);
    RUN(forwards_to_the_same_file_only);
    RUN(full_pipe_is_no_error);
    return 0;
}

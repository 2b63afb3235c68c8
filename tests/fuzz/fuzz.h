/* What every fuzz target shares: its input, and a main for where there is no libFuzzer.
 *
 * A target defines fuzz_one(), a program of operations written in the input's bytes,
 * and checks each against a model of its own.  Built with -fsanitize=fuzzer it is run
 * by libFuzzer; with -DFUZZ_REPLAY it runs the files that it is given, then as many
 * inputs of a generator of its own as FUZZ_RANDOM says. */
#ifndef HL_TESTS_FUZZ_H
#define HL_TESTS_FUZZ_H

#include "check.h"

#include <signal.h>

typedef struct {
    const uint8_t *p;
    size_t left;
} fuzz_input;

/* The next byte; an input that ran out gives zeros, so no program is cut in half. */
static inline unsigned
fuzz_byte(fuzz_input *in)
{
    if (in->left == 0) {
        return 0;
    }
    in->left--;
    return *in->p++;
}

static void fuzz_one(fuzz_input *in);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = {data, size};
    check_allocs_left = -1;
    (void)signal(SIGPIPE, SIG_IGN); /* as Python does */
    fuzz_one(&in);
    return 0;
}

#ifdef FUZZ_REPLAY

#define FUZZ_MOST 4096

static void
fuzz_file(const char *path)
{
    uint8_t *data = malloc(1 << 20); /* its own block: reading past the end is seen */
    FILE *f = fopen(path, "rb");
    CHECK(f != NULL && data != NULL);
    size_t n = fread(data, 1, 1 << 20, f);
    CHECK_EQ(fclose(f), 0);
    uint8_t *exact = malloc(n ? n : 1);
    CHECK(exact != NULL);
    memcpy(exact, data, n);
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    free(data);
}

static void
fuzz_random(long count)
{
    uint64_t state = 88172645463325252u;
    static uint8_t data[FUZZ_MOST];
    for (long i = 0; i < count; i++) {
        size_t n = (size_t)(i * 7) % 512;
        for (size_t j = 0; j < n; j++) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            data[j] = (uint8_t)(state >> 32);
        }
        LLVMFuzzerTestOneInput(data, n);
    }
}

int
main(int argc, char **argv)
{
    const char *count = getenv("FUZZ_RANDOM");
    check_start();
    for (int i = 1; i < argc; i++) {
        fuzz_file(argv[i]);
    }
    fuzz_random(count != NULL ? atol(count) : 0);
    printf("ok %d files\n", argc - 1);
    return 0;
}

#endif

#endif

/* A load generator for registries over plain HTTP/1.1, for Linux.
 *
 * Rule 1: one thread, one epoll, no allocation per request: it must not be what is measured.
 * Rule 2: bodies are dropped inside the kernel (recv with MSG_TRUNC); only heads are looked at.
 * Rule 3: an answer counts only if its status and length are the expected ones; a fast error is no speed.
 * Rule 4: one request at a time on a connection; a connection that the server closed is opened again, and counted.
 */
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HEAD_MAX = 4096, PATHS_MAX = 65536 };

enum mode { CLOSED, HERD, IDLE };

/* What is wrong with an answer, or with the lack of one. */
enum fault { F_CONNECT, F_STATUS, F_LENGTH, F_FRAMING, F_CUT, F_TIMEOUT, FAULTS };

struct answer {
    int status;
    int64_t length; /* bytes of the body as Content-Length says; -1: it does not */
    bool chunked, closes;
};

/* Bytes of the answer's head at the start of `data`; 0: not all of it is there; -1: this is no HTTP/1 answer. */
int answer_parse(const char *data, size_t size, struct answer *out);

struct request {
    char *head;
    size_t size;
    char *counter;  /* ten digits inside `head`; NULL without --unique */
    int64_t length; /* expected Content-Length; -1: any */
};

struct options {
    enum mode mode;
    const char *host;
    int port, connections, status;
    bool head, wait, ask, unique;
    double seconds, spread, timeout, rate;
    uint64_t requests; /* 0: as many as fit into `seconds` */
    struct request *list;
    size_t count;
};

/* Reads the command line; ends the program with one line on what is wrong with it. */
void options_read(int argc, char **argv, struct options *out);
_Noreturn void give_up(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Log-linear: 64 steps in each power of two, so that a value is off by less than 1.6 %. Nanoseconds. */
struct histogram {
    uint64_t steps[64 * 64], count, sum, max;
};
void histogram_add(struct histogram *h, uint64_t value);
uint64_t histogram_at(const struct histogram *h, double share);
void histogram_print(const char *name, const struct histogram *h);

struct outcome {
    uint64_t requests, bytes, faults[FAULTS], reconnects;
    int silent, open;    /* connections that got no whole answer; that are open at the end */
    double seconds, cpu; /* from the first request on; the processor time is this program's */
    struct histogram whole, first; /* until the last byte; until the first byte of the body */
    char complaint[160];           /* the first fault, in words */
};

void clients_run(const struct options *options, struct outcome *out);
#endif

/* A whole run: open the connections, keep them asking until it is over, count. */
#include "connection.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>

enum { EVENTS = 256, PENDING_MAX = 128 };

static double own_cpu(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

/* Waits for events, at most until `until`. epoll_wait alone knows milliseconds only: too coarse for a schedule. */
static int wait_for(const struct pool *p, struct epoll_event *ready, uint64_t until) {
    uint64_t now = nanoseconds(), nap = until > now ? until - now : 0;
    if (nap > 50000000)
        return epoll_wait(p->events, ready, EVENTS, nap > 1000000000 ? 1000 : (int)(nap / 1000000));
    struct timespec limit = {.tv_nsec = (long)nap};
    struct pollfd watched = {.fd = p->events, .events = POLLIN};
    int count = epoll_wait(p->events, ready, EVENTS, 0);
    if (count != 0 || ppoll(&watched, 1, &limit, NULL) <= 0)
        return count;
    return epoll_wait(p->events, ready, EVENTS, 0);
}

static void turn(struct pool *p, uint64_t until) {
    struct epoll_event ready[EVENTS];
    int count = wait_for(p, ready, until);
    p->now = nanoseconds();
    for (int i = 0; i < count; i++)
        connection_event(p, ready[i].data.ptr);
}

/* Opens what is absent and due, asks where something is due; says when to look again. */
static uint64_t tend(struct pool *p, uint64_t until) {
    bool herd = p->options->mode == HERD;
    uint64_t next = until;
    p->now = nanoseconds();
    for (struct connection *c = p->all; c < p->all + p->options->connections; c++) {
        if (c->state == ABSENT && (herd ? connection_due(p, c) <= p->now : p->pending < PENDING_MAX))
            connection_dial(p, c);
        if (c->state == READY && p->asking)
            connection_ask(p, c);
        if ((c->state == READY || (herd && c->state == ABSENT)) && connection_due(p, c) > p->now &&
            connection_due(p, c) < next)
            next = connection_due(p, c);
    }
    return next;
}

static void connect_all(struct pool *p, uint64_t until) {
    while ((p->absent > 0 || p->pending > 0) && p->out->faults[F_CONNECT] == 0 && p->now < until) {
        tend(p, until);
        turn(p, until);
    }
    if (p->out->faults[F_CONNECT] != 0)
        give_up("%s:%d: %s", p->options->host, p->options->port, p->out->complaint);
    if (p->now >= until)
        give_up("%s:%d: not all connections could be opened in time", p->options->host, p->options->port);
}

static void line_in(void) {
    char line[80];
    printf("ready\n");
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL)
        give_up("standard input ended");
}

static bool over(const struct pool *p) {
    if (p->options->mode == CLOSED)
        return p->options->requests != 0 && p->finished >= p->options->requests;
    return p->finished + p->out->faults[F_CONNECT] >= (uint64_t)p->options->connections;
}

static void rounds(struct pool *p, double seconds) {
    bool scheduled = p->options->rate > 0;
    double cpu_before = own_cpu();
    p->began = nanoseconds();
    uint64_t until = p->began + from_seconds(seconds);
    p->asking = true;
    for (uint64_t next = tend(p, until); !over(p) && nanoseconds() < until;) {
        turn(p, next);
        next = p->absent > 0 || scheduled ? tend(p, until) : until;
    }
    p->out->seconds = (double)(nanoseconds() - p->began) / 1e9;
    p->out->cpu = own_cpu() - cpu_before;
}

/* One answer on each connection that does not count, so that accepting the connections is not what is measured. */
static void ask_once(struct pool *p) {
    const struct options *usual = p->options;
    struct options once = *usual;
    struct outcome *out = p->out;
    once.mode = IDLE;
    once.requests = 0;
    once.rate = 0;
    p->options = &once;
    rounds(p, once.timeout);
    p->options = usual;
    p->asking = false;
    p->sent = p->finished = 0;
    for (struct connection *c = p->all; c < p->all + usual->connections; c++) {
        c->asked = c->answered = 0;
        p->absent += c->state == DONE;
        c->state = c->state == DONE ? ABSENT : c->state;
    }
    out->requests = out->bytes = out->reconnects = 0;
    out->whole = out->first = (struct histogram){0};
}

static void hold(struct pool *p) {
    uint64_t until = nanoseconds() + from_seconds(p->options->seconds);
    if (p->options->wait)
        line_in();
    else
        while (nanoseconds() < until)
            turn(p, until);
    turn(p, 0); /* notice those that the server closed meanwhile */
}

static void tally(struct pool *p, bool timed) {
    for (struct connection *c = p->all; c < p->all + p->options->connections; c++) {
        p->out->silent += c->answered == 0;
        p->out->open += c->fd >= 0;
        bool unborn = c->state == CONNECTING && p->options->mode == HERD;
        if (!timed && (unborn || c->state == HEAD || c->state == BODY))
            connection_fault(p, c, F_TIMEOUT, "no whole answer in time");
    }
}

void clients_run(const struct options *options, struct outcome *out) {
    struct pool p = {.options = options, .out = out, .absent = options->connections, .now = nanoseconds()};
    p.all = calloc((size_t)options->connections, sizeof *p.all);
    p.events = epoll_create1(EPOLL_CLOEXEC);
    if (p.all == NULL || p.events < 0)
        give_up("%s", strerror(errno));
    for (int i = 0; i < options->connections; i++)
        p.all[i].fd = -1;
    p.server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)options->port)};
    inet_pton(AF_INET, options->host, &p.server.sin_addr);
    if (options->mode != HERD)
        connect_all(&p, p.now + from_seconds(options->timeout));
    if (options->ask && options->mode == CLOSED)
        ask_once(&p);
    if (options->wait && options->mode != IDLE)
        line_in();
    bool timed = options->mode == CLOSED && options->requests == 0;
    if (options->mode != IDLE || options->ask)
        rounds(&p, timed ? options->seconds : options->timeout);
    if (options->mode == IDLE)
        hold(&p);
    tally(&p, timed);
}

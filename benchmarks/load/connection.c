/* One connection: open it, ask, read the answer, judge it. */
#include "connection.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { TURNS = 16 }; /* reads from one connection before the others have theirs */

uint64_t nanoseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t from_seconds(double seconds) { return (uint64_t)(seconds * 1e9); }

static void drop(struct pool *p, struct connection *c, enum state next) {
    if (c->fd >= 0)
        close(c->fd);
    p->pending -= c->state == CONNECTING;
    p->absent += next == ABSENT;
    c->fd = -1;
    c->state = next;
}

void connection_fault(struct pool *p, struct connection *c, enum fault kind, const char *what) {
    if (p->out->complaint[0] == '\0')
        snprintf(p->out->complaint, sizeof p->out->complaint, "%s", what);
    p->out->faults[kind]++;
    p->finished += c->state == HEAD || c->state == BODY;
    drop(p, c, p->options->mode == CLOSED ? ABSENT : DONE);
}

void connection_dial(struct pool *p, struct connection *c) {
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        give_up("connection %d: %s", (int)(c - p->all), strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event wanted = {.events = EPOLLOUT, .data.ptr = c};
    c->state = CONNECTING;
    c->again = c->closes = false;
    p->pending++;
    p->absent--;
    if (connect(c->fd, (struct sockaddr *)&p->server, sizeof p->server) != 0 && errno != EINPROGRESS)
        connection_fault(p, c, F_CONNECT, strerror(errno));
    else if (epoll_ctl(p->events, EPOLL_CTL_ADD, c->fd, &wanted) != 0)
        give_up("epoll_ctl: %s", strerror(errno));
}

static void connected(struct pool *p, struct connection *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) {
        connection_fault(p, c, F_CONNECT, strerror(error));
        return;
    }
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(p->events, EPOLL_CTL_MOD, c->fd, &wanted);
    p->pending--;
    c->state = READY;
    if (p->asking)
        connection_ask(p, c);
}

/* When the connection's next request is due: by the schedule of --spread or --rate, else 0: at once. */
uint64_t connection_due(const struct pool *p, const struct connection *c) {
    uint64_t place = (uint64_t)(c - p->all), width = (uint64_t)p->options->connections;
    if (p->options->mode == HERD)
        return p->began + place * from_seconds(p->options->spread) / width;
    if (p->options->rate > 0)
        return p->began + (uint64_t)((double)(c->asked * width + place) * 1e9 / p->options->rate);
    return 0;
}

void connection_ask(struct pool *p, struct connection *c) {
    uint64_t due = connection_due(p, c);
    if (due > p->now || (p->options->requests != 0 && p->sent >= p->options->requests))
        return;
    const struct request *r = &p->options->list[p->sent % p->options->count];
    if (r->counter != NULL) {
        uint64_t value = p->sent;
        for (int i = 9; i >= 0; i--, value /= 10)
            r->counter[i] = (char)('0' + value % 10);
    }
    c->request = r;
    c->state = HEAD;
    c->have = 0;
    c->begun = false;
    c->start = due != 0 ? due : p->now;
    c->asked++;
    p->sent++;
    if (send(c->fd, r->head, r->size, MSG_NOSIGNAL) != (ssize_t)r->size)
        connection_fault(p, c, F_CUT, "a request could not be sent");
}

static void complete(struct pool *p, struct connection *c) {
    p->now = nanoseconds();
    histogram_add(&p->out->whole, p->now - c->start);
    p->out->requests++;
    p->finished++;
    c->answered++;
    c->again = true;
    c->state = READY;
    if (p->options->mode == HERD)
        drop(p, c, DONE);
    else if (c->closes) {
        p->out->reconnects++;
        drop(p, c, p->options->mode == CLOSED ? ABSENT : DONE);
    } else if (p->options->mode == CLOSED)
        connection_ask(p, c);
}

static void got_body(struct pool *p, struct connection *c, int64_t count) {
    if (count > c->left) {
        connection_fault(p, c, F_FRAMING, "more bytes than Content-Length says");
        return;
    }
    if (!c->begun && (count > 0 || c->left == 0)) {
        c->begun = true;
        histogram_add(&p->out->first, nanoseconds() - c->start);
    }
    c->left -= count;
    p->out->bytes += (uint64_t)count;
    if (c->left == 0)
        complete(p, c);
}

static void got_head(struct pool *p, struct connection *c) {
    struct answer answer;
    int size = answer_parse(c->head, c->have, &answer);
    if (size == 0 && c->have < HEAD_MAX - 1)
        return;
    if (size <= 0)
        connection_fault(p, c, F_FRAMING, "what came is no head of an HTTP/1 answer");
    else if (answer.status != p->options->status) {
        c->head[strcspn(c->head, "\r\n")] = '\0';
        connection_fault(p, c, F_STATUS, c->head);
    } else if (answer.chunked || answer.length < 0)
        connection_fault(p, c, F_FRAMING, "an answer has no Content-Length");
    else if (c->request->length >= 0 && answer.length != c->request->length)
        connection_fault(p, c, F_LENGTH, "an answer has another Content-Length than expected");
    else {
        c->state = BODY;
        c->closes = answer.closes;
        c->left = p->options->head ? 0 : answer.length;
        got_body(p, c, (int64_t)c->have - size);
    }
}

/* The server closed the connection. Between two requests it may; the next one opens another. */
static void ended(struct pool *p, struct connection *c) {
    bool idle = c->state == READY || (c->state == HEAD && c->have == 0 && c->again);
    if (!idle || p->options->mode != CLOSED) {
        connection_fault(p, c, F_CUT, "the server closed a connection early");
        return;
    }
    if (c->state == HEAD) {
        p->sent--;
        c->asked--;
    }
    p->out->reconnects++;
    drop(p, c, ABSENT);
}

static void readable(struct pool *p, struct connection *c) {
    for (int turn = 0; turn < TURNS; turn++) {
        bool body = c->state == BODY;
        ssize_t count = body ? recv(c->fd, NULL, (size_t)(c->left < 1 << 30 ? c->left : 1 << 30), MSG_TRUNC)
                             : recv(c->fd, c->head + c->have, HEAD_MAX - 1 - c->have, 0);
        if (count < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (count <= 0)
            ended(p, c);
        else if (body)
            got_body(p, c, count);
        else if (c->state == HEAD) {
            c->have += (uint32_t)count;
            c->head[c->have] = '\0';
            got_head(p, c);
        } else
            connection_fault(p, c, F_FRAMING, "bytes that nobody asked for");
        if (c->state != BODY)
            return;
    }
}

void connection_event(struct pool *p, struct connection *c) {
    if (c->state == CONNECTING)
        connected(p, c);
    else if (c->fd >= 0)
        readable(p, c);
}

/* One connection and the pool it belongs to: what the two files `connection.c` and `run.c` share. */
#ifndef CONNECTION_H
#define CONNECTION_H

#include "load.h"

#include <netinet/in.h>

enum state { ABSENT, CONNECTING, READY, HEAD, BODY, DONE };

struct connection {
    int fd;
    enum state state;
    bool again, closes, begun; /* was used before; the server will close it; the body has begun */
    uint32_t have;             /* bytes in `head` */
    int64_t left;              /* bytes of the body still to come */
    uint64_t start;            /* when its request was due */
    uint64_t asked, answered;
    const struct request *request;
    char head[HEAD_MAX];
};

struct pool {
    const struct options *options;
    struct outcome *out;
    struct connection *all;
    struct sockaddr_in server;
    int events, pending, absent; /* the epoll; connections that are being opened; that are to be opened */
    bool asking;
    uint64_t began, now; /* nanoseconds */
    uint64_t sent, finished;
};

uint64_t nanoseconds(void);
uint64_t from_seconds(double seconds);
uint64_t connection_due(const struct pool *p, const struct connection *c);
void connection_dial(struct pool *p, struct connection *c);
void connection_ask(struct pool *p, struct connection *c);
void connection_event(struct pool *p, struct connection *c);
void connection_fault(struct pool *p, struct connection *c, enum fault kind, const char *what);
#endif

/* The command line, and the heads of the requests that it asks for. */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char USAGE[] =
    "usage: load closed|herd|idle --port N [options] PATH...\n"
    "  closed  every connection asks again as soon as it has an answer\n"
    "  herd    every connection asks once, all within --spread seconds\n"
    "  idle    connections are opened and held for --seconds\n"
    "  --host ADDRESS    an IPv4 address (127.0.0.1)     --port N\n"
    "  --connections N   (1)                             --seconds S    how long (2)\n"
    "  --requests N      stop after N instead            --rate R       requests a second, on a fixed schedule\n"
    "  --method GET|HEAD (GET)                           --header LINE  a further header; may be repeated\n"
    "  --range A-B       ask for a range, expect 206     --unique       give every request a head of its own\n"
    "  --status N        the expected status (200)       --length N     the expected Content-Length of each PATH\n"
    "  --paths FILE      more paths: lines `PATH [LENGTH]`\n"
    "  --spread S        herd: start within S (0)        --timeout S    give the whole run up (120)\n"
    "  --ask             closed, idle: one request on each connection first; closed: which does not count\n"
    "  --wait            print `ready` when connected, and begin (idle: end) at a line on standard input\n";

struct wishes {
    const char *method, *range, *paths;
    char headers[HEAD_MAX];
    int64_t length;
};

void give_up(const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, rest);
    fputc('\n', stderr);
    va_end(rest);
    exit(2);
}

static double positive(const char *option, const char *text, double least, double most) {
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (*text == '\0' || *end != '\0' || errno != 0 || !(value >= least && value <= most))
        give_up("--%s takes a number from %.0f to %.0f, not '%s'", option, least, most, text);
    return value;
}

static void add(struct options *out, const struct wishes *wishes, const char *path, int64_t length) {
    struct request *next = &out->list[out->count];
    char text[2 * HEAD_MAX];
    if (path[0] != '/' || strpbrk(path, " \t\r\n") != NULL)
        give_up("a path begins with / and has no spaces, not '%s'", path);
    if (out->count == PATHS_MAX)
        give_up("more than %d paths", PATHS_MAX);
    int size = snprintf(text, sizeof text, "%s %s HTTP/1.1\r\nHost: %s:%d\r\n%s%s%s%s%s\r\n", wishes->method, path,
                        out->host, out->port, wishes->headers, wishes->range ? "Range: bytes=" : "",
                        wishes->range ? wishes->range : "", wishes->range ? "\r\n" : "",
                        out->unique ? "X-Request-Id: 0000000000\r\n" : "");
    if (size < 0 || size >= (int)sizeof text || (next->head = strdup(text)) == NULL)
        give_up("a request's head has more than %d bytes", HEAD_MAX);
    next->size = (size_t)size;
    next->counter = out->unique ? next->head + size - 14 : NULL;
    next->length = length;
    out->count++;
}

static void add_file(struct options *out, const struct wishes *wishes) {
    char line[HEAD_MAX], path[HEAD_MAX];
    FILE *file = fopen(wishes->paths, "r");
    if (file == NULL)
        give_up("%s: %s", wishes->paths, strerror(errno));
    while (fgets(line, sizeof line, file) != NULL) {
        long long length = wishes->length;
        if (sscanf(line, "%4095s %lld", path, &length) >= 1)
            add(out, wishes, path, length);
    }
    fclose(file);
}

static void add_header(struct wishes *wishes, const char *line) {
    size_t used = strlen(wishes->headers);
    if (strchr(line, ':') == NULL || strpbrk(line, "\r\n") != NULL)
        give_up("a header is one line `Name: value`, not '%s'", line);
    if (used + strlen(line) + 3 > sizeof wishes->headers)
        give_up("the headers have more than %d bytes", HEAD_MAX);
    sprintf(wishes->headers + used, "%s\r\n", line);
}

static enum mode mode_of(const char *word) {
    static const char *const names[] = {"closed", "herd", "idle"};
    for (int i = 0; i < 3; i++)
        if (strcmp(word, names[i]) == 0)
            return (enum mode)i;
    give_up("the mode is closed, herd or idle, not '%s'; --help tells more", word);
}

static void check(struct options *out, const struct wishes *wishes) {
    struct in_addr address;
    if (out->port == 0)
        give_up("--port is missing; --help tells more");
    if (inet_pton(AF_INET, out->host, &address) != 1)
        give_up("--host takes an IPv4 address, not '%s'", out->host);
    if (strcmp(wishes->method, "GET") != 0 && strcmp(wishes->method, "HEAD") != 0)
        give_up("--method is GET or HEAD, not '%s'", wishes->method);
    out->head = wishes->method[0] == 'H';
    if (out->status == 0)
        out->status = wishes->range ? 206 : 200;
}

void options_read(int argc, char **argv, struct options *out) {
    enum { HOST = 1, PORT, CONNECTIONS, SECONDS, REQUESTS, RATE, METHOD, HEADER, RANGE, UNIQUE, STATUS, LENGTH, PATHS,
           SPREAD, TIMEOUT, ASK, WAIT, HELP };
    static const struct option known[] = {
        {"host", 1, 0, HOST}, {"port", 1, 0, PORT}, {"connections", 1, 0, CONNECTIONS}, {"seconds", 1, 0, SECONDS},
        {"requests", 1, 0, REQUESTS}, {"rate", 1, 0, RATE}, {"method", 1, 0, METHOD}, {"header", 1, 0, HEADER},
        {"range", 1, 0, RANGE}, {"unique", 0, 0, UNIQUE}, {"status", 1, 0, STATUS}, {"length", 1, 0, LENGTH},
        {"paths", 1, 0, PATHS}, {"spread", 1, 0, SPREAD}, {"timeout", 1, 0, TIMEOUT}, {"ask", 0, 0, ASK},
        {"wait", 0, 0, WAIT}, {"help", 0, 0, HELP}, {0, 0, 0, 0}};
    struct wishes wishes = {.method = "GET", .length = -1};
    *out = (struct options){.host = "127.0.0.1", .connections = 1, .seconds = 2, .timeout = 120};
    for (int code, at = 0; (code = getopt_long(argc, argv, "", known, &at)) != -1;) {
        const char *name = known[at].name;
        switch (code) {
        case HOST: out->host = optarg; break;
        case PORT: out->port = (int)positive(name, optarg, 1, 65535); break;
        case CONNECTIONS: out->connections = (int)positive(name, optarg, 1, 60000); break;
        case SECONDS: out->seconds = positive(name, optarg, 0, 3600); break;
        case REQUESTS: out->requests = (uint64_t)positive(name, optarg, 1, 1e12); break;
        case RATE: out->rate = positive(name, optarg, 1, 1e7); break;
        case METHOD: wishes.method = optarg; break;
        case HEADER: add_header(&wishes, optarg); break;
        case RANGE: wishes.range = optarg; break;
        case UNIQUE: out->unique = true; break;
        case STATUS: out->status = (int)positive(name, optarg, 100, 599); break;
        case LENGTH: wishes.length = (int64_t)positive(name, optarg, 0, 1e15); break;
        case PATHS: wishes.paths = optarg; break;
        case SPREAD: out->spread = positive(name, optarg, 0, 3600); break;
        case TIMEOUT: out->timeout = positive(name, optarg, 0, 36000); break;
        case ASK: out->ask = true; break;
        case WAIT: out->wait = true; break;
        case HELP: fputs(USAGE, stdout); exit(0);
        default: exit(2); /* getopt has said why */
        }
    }
    if (optind == argc)
        give_up("the mode is missing; --help tells more");
    out->mode = mode_of(argv[optind++]);
    check(out, &wishes);
    out->list = calloc(PATHS_MAX, sizeof *out->list);
    if (out->list == NULL)
        give_up("out of memory");
    for (; optind < argc; optind++)
        add(out, &wishes, argv[optind], wishes.length);
    if (wishes.paths != NULL)
        add_file(out, &wishes);
    if (out->count == 0 && (out->mode != IDLE || out->ask))
        give_up("a PATH is missing; --help tells more");
}

/* Reading the head of an answer: status, Content-Length, Transfer-Encoding, Connection. Nothing else matters here. */
#include "load.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

static bool named(const char **line, const char *end, const char *name) {
    size_t size = strlen(name);
    if ((size_t)(end - *line) <= size || (*line)[size] != ':' || strncasecmp(*line, name, size) != 0)
        return false;
    *line += size + 1;
    while (*line < end && (**line == ' ' || **line == '\t'))
        ++*line;
    return true;
}

static bool holds(const char *value, const char *end, const char *word) {
    size_t size = strlen(word);
    for (; (size_t)(end - value) >= size; value++)
        if (strncasecmp(value, word, size) == 0)
            return true;
    return false;
}

static int64_t number(const char *value, const char *end) {
    int64_t result = 0;
    if (value == end || end - value > 15)
        return -1;
    for (; value < end; value++) {
        if (!isdigit((unsigned char)*value))
            return -1;
        result = result * 10 + (*value - '0');
    }
    return result;
}

static bool header(const char *line, const char *end, struct answer *out) {
    if (named(&line, end, "content-length")) {
        if (out->length >= 0)
            return false;
        while (end > line && (end[-1] == ' ' || end[-1] == '\t'))
            end--;
        out->length = number(line, end);
        return out->length >= 0;
    }
    if (named(&line, end, "transfer-encoding"))
        out->chunked = holds(line, end, "chunked");
    else if (named(&line, end, "connection"))
        out->closes = holds(line, end, "close");
    return true;
}

int answer_parse(const char *data, size_t size, struct answer *out) {
    const char *stop = memmem(data, size, "\r\n\r\n", 4);
    if (size >= 7 && memcmp(data, "HTTP/1.", 7) != 0)
        return -1;
    if (stop == NULL)
        return 0;
    const char *line = memchr(data, '\r', size);
    if (line - data < 12 || number(data + 9, data + 12) < 100)
        return -1;
    *out = (struct answer){.status = (int)number(data + 9, data + 12), .length = -1, .closes = data[7] == '0'};
    while (line < stop) {
        line += 2;
        const char *end = memmem(line, (size_t)(stop + 2 - line), "\r\n", 2);
        if (!header(line, end, out))
            return -1;
        line = end;
    }
    return (int)(stop + 4 - data);
}

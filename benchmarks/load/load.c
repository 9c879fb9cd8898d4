/* The program: reads the options, runs the clients, prints one JSON object. */
#include "load.h"

#include <signal.h>
#include <stdio.h>

static void quoted(const char *text) {
    putchar('"');
    for (; *text != '\0'; text++)
        if (*text >= ' ' && *text < 127 && *text != '"' && *text != '\\')
            putchar(*text);
    putchar('"');
}

int main(int argc, char **argv) {
    static const char *const modes[] = {"closed", "herd", "idle"};
    static const char *const names[FAULTS] = {"connect", "status", "length", "framing", "cut", "timeout"};
    static struct outcome out;
    struct options options;
    options_read(argc, argv, &options);
    signal(SIGPIPE, SIG_IGN);
    clients_run(&options, &out);
    uint64_t errors = 0;
    printf("{\"mode\": \"%s\", \"connections\": %d, \"faults\": {", modes[options.mode], options.connections);
    for (int i = 0; i < FAULTS; i++) {
        errors += out.faults[i];
        printf("%s\"%s\": %llu", i ? ", " : "", names[i], (unsigned long long)out.faults[i]);
    }
    printf("}, \"errors\": %llu, \"complaint\": ", (unsigned long long)errors);
    quoted(out.complaint);
    printf(", \"requests\": %llu, \"bytes\": %llu, \"reconnects\": %llu, \"silent\": %d, \"open\": %d",
           (unsigned long long)out.requests, (unsigned long long)out.bytes, (unsigned long long)out.reconnects,
           out.silent, out.open);
    printf(", \"seconds\": %.6f, \"cpu_seconds\": %.6f", out.seconds, out.cpu);
    histogram_print("latency_us", &out.whole);
    histogram_print("first_byte_us", &out.first);
    printf("}\n");
    return 0;
}

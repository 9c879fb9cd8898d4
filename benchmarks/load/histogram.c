/* Percentiles of many latencies in a fixed amount of memory. */
#include "load.h"

#include <math.h>
#include <stdio.h>

enum { BITS = 6, STEPS = 1 << BITS };

static size_t place(uint64_t value) {
    int power = 63 - __builtin_clzll(value | 1);
    if (power < BITS)
        return (size_t)value;
    int shift = power - BITS;
    return (size_t)(shift + 1) * STEPS + (size_t)((value >> shift) - STEPS);
}

static uint64_t top(size_t index) {
    if (index < STEPS)
        return index;
    size_t shift = index / STEPS - 1;
    return ((STEPS + index % STEPS + 1) << shift) - 1;
}

void histogram_add(struct histogram *h, uint64_t value) {
    h->steps[place(value)]++;
    h->count++;
    h->sum += value;
    if (value > h->max)
        h->max = value;
}

uint64_t histogram_at(const struct histogram *h, double share) {
    uint64_t wanted = (uint64_t)ceil(share * (double)h->count), seen = 0;
    for (size_t i = 0; i < sizeof h->steps / sizeof *h->steps; i++) {
        seen += h->steps[i];
        if (seen >= wanted && seen > 0)
            return top(i) < h->max ? top(i) : h->max;
    }
    return 0;
}

void histogram_print(const char *name, const struct histogram *h) {
    static const struct { const char *name; double share; } wanted[] = {
        {"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}, {"max", 1.0}};
    printf(", \"%s\": {\"mean\": %.1f", name, h->count ? (double)h->sum / (double)h->count / 1e3 : 0.0);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        printf(", \"%s\": %.1f", wanted[i].name, (double)histogram_at(h, wanted[i].share) / 1e3);
    printf("}");
}

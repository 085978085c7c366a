/* What the clients have in common: the clock, being pinned and being somebody, and the figures that they print. */

#ifndef LATENCY_H
#define LATENCY_H

#include <err.h>
#include <grp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static inline uint64_t now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

static inline void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        err(2, "sched_setaffinity");
}

/* For good, with the gid of the same number and no other group. */
static inline void become(uid_t uid)
{
    if (setgroups(0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid))
        err(2, "becoming uid %u", uid);
}

static inline int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Nanoseconds of each, and of all together; printed in microseconds. */
static inline void print_figures(uint64_t *taken, long number, uint64_t together, long failed)
{
    qsort(taken, (size_t)number, sizeof *taken, by_size);
#define SHARE(of) ((double)(number ? taken[(number - 1) * (of) / 100] : 0) / 1e3)
    printf("{\"number\": %ld, \"failed\": %ld, \"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"most\": %.3f, \"rate\": %.1f}\n", number,
           failed, SHARE(50), SHARE(90), SHARE(99), SHARE(100), together ? (double)number / ((double)together / 1e9) : 0.0);
#undef SHARE
    fflush(stdout);
}

#endif

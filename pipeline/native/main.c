/* What every library of kernels has once: its digest, the machine's instruction set, and a team of threads.
 *
 * compile.py compiles this file with the sources of each library, with -DDIGEST=<hash of the sources>. */
#include "kernels.h"

#ifndef _WIN32
#include <pthread.h>
static void *start_worker(void *order) {
    void **pair = order;
    (*(Worker **)pair[0])(pair[1]);
    return 0;
}
/* Used where torch has no GOMP_parallel, with at most 65 threads. If one cannot be started, others take its tasks. */
void pipeline_team(Worker *worker, void *work, unsigned threads, unsigned flags) {
    pthread_t started[64];
    void *order[] = {&worker, work};
    unsigned n = 0;
    (void)flags;
    while (n + 1 < threads && n < 64 && !pthread_create(&started[n], 0, start_worker, order)) n++;
    worker(work);
    while (n) pthread_join(started[--n], 0);
}
#else
void pipeline_team(Worker *worker, void *work, unsigned threads, unsigned flags) {
    (void)threads, (void)flags;
    worker(work);
}
#endif
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
/* A hash of the sources: library.py rejects a library of other sources. */
const char *pipeline_digest(void) { return TEXT(DIGEST); }
#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
/* Without __builtin_cpu_supports, which under zig reports no feature. Both are needed: the processor has the
 * instructions (cpuid), and the system saves their registers at a task switch (xgetbv). */
static const char *widest(void) {
    unsigned a, b, c, d, saved, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & (1u << 27 | 1u << 12)) != (1u << 27 | 1u << 12)) return "sse2";
    __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & 1u << 5) || (saved & 6) != 6) return "sse2";
    const unsigned all = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* f, dq, bw, vl */
    if ((b & all) != all || (saved & 0xe6) != 0xe6) return "avx2";
    if (!(c & 1u << 11) || !__get_cpuid_count(7, 1, &a, &b, &c, &d)) return "avx512"; /* vnni */
    return a & 1u << 5 ? "avx512bf16" : "avx512";
}
#elif defined(__aarch64__)
static const char *widest(void) { return "neon"; }
#endif
/* The widest instruction set of this machine. */
const char *pipeline_set(void) { return widest(); }

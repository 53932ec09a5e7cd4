/* Types and macros that kernels share. A source is compiled once per instruction set, with -DSET=<its name> and
 * -DLANES=<floats per vector>: name each exported function with NAME(<prefix>_, SET). */
#ifndef PIPELINE_KERNELS_H
#define PIPELINE_KERNELS_H
#include <stdint.h>

typedef int64_t i64;
typedef void Worker(void *);
typedef void Team(Worker *, void *, unsigned threads, unsigned flags); /* GOMP_parallel, or pipeline_team */

#define INLINE static inline __attribute__((always_inline))
#define NAME_(a, b) a##b
#define NAME(a, b) NAME_(a, b)
#endif

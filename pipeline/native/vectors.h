/* Vectors of LANES floats, and functions of them: for sources that are compiled once per instruction set. */
#ifndef PIPELINE_VECTORS_H
#define PIPELINE_VECTORS_H
#include "kernels.h"

#define UNROLL _Pragma("GCC unroll 8")
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec load(const float *p) { return (vec)*(const loose *)p; }
INLINE void store(float *p, vec v) { *(loose *)p = (loose)v; }
INLINE vec splat(float x) { return x - (vec){0}; }
INLINE vec pick(ints yes, vec a, vec b) { return (vec)((yes & (ints)a) | (~yes & (ints)b)); }

/* a * b + c, rounded once where the machine can. */
#if defined(__AVX512F__) && LANES == 16
#include <immintrin.h>
INLINE vec fma_(vec a, vec b, vec c) { return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
#elif defined(__FMA__) && LANES == 8
#include <immintrin.h>
INLINE vec fma_(vec a, vec b, vec c) { return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
#elif defined(__aarch64__)
#include <arm_neon.h>
INLINE vec fma_(vec a, vec b, vec c) { return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#else
INLINE vec fma_(vec a, vec b, vec c) { return a * b + c; }
#endif

/* exp(r) for |r| <= ln(2) / 2, by the polynomial of Cephes' expf. */
INLINE vec exp_near_0(vec r) {
    vec p = splat(1.9875691500e-4f);
    p = fma_(p, r, splat(1.3981999507e-3f));
    p = fma_(p, r, splat(8.3334519073e-3f));
    p = fma_(p, r, splat(4.1665795894e-2f));
    p = fma_(p, r, splat(1.6666665459e-1f));
    p = fma_(p, r, splat(5.0000001201e-1f));
    return fma_(p, r * r, r + 1.0f);
}

/* Cephes' expf, relative error about 1e-7: exp(x) = 2^n exp(r) with n = round(x / ln 2) and |r| <= ln(2) / 2, for which
 * exp(r) is a polynomial. ln 2 is subtracted in two parts, 0.693359375 (few bits, so n times it is exact) and -2.12e-4,
 * so that r keeps its digits. Clamped to +-87, so that 2^n stays a normal number. Clamping by comparison keeps a NaN,
 * which min would drop. */
INLINE vec exp_(vec x) {
    x = pick(x < -87.0f, splat(-87.0f), x);
    x = pick(x > 87.0f, splat(87.0f), x);
    vec n = fma_(x, splat(1.44269504088896341f), splat(12582912.0f)) - 12582912.0f; /* +1.5 2^23 rounds to whole */
    vec r = fma_(n, splat(2.12194440e-4f), fma_(n, splat(-0.693359375f), x));
    vec p = exp_near_0(r);
    /* Converting a NaN to an integer is undefined. p is NaN then, and stays NaN whatever it is scaled by. */
    ints e = (__builtin_convertvector(pick(n == n, n, splat(0.0f)), ints) + 127) << 23;
    return p * (vec)e;
}

/* Cephes' logf, of positive normal numbers: x = 2^e m with m in sqrt(1/2) .. sqrt(2), for which log(m) is a polynomial.
 * A NaN stays one. */
INLINE vec log_(vec x) {
    ints bits = (ints)x;
    vec e = __builtin_convertvector((bits >> 23) - 126, vec);
    vec m = (vec)((bits & 0x7fffff) | 0x3f000000);
    ints low = m < 0.707106781186547524f;
    e -= (vec)((ints)splat(1.0f) & low);
    m = m - 1.0f + (vec)((ints)m & low);
    vec s = m * m, p = splat(7.0376836292e-2f);
    p = fma_(p, m, splat(-1.1514610310e-1f));
    p = fma_(p, m, splat(1.1676998740e-1f));
    p = fma_(p, m, splat(-1.2420140846e-1f));
    p = fma_(p, m, splat(1.4249322787e-1f));
    p = fma_(p, m, splat(-1.6668057665e-1f));
    p = fma_(p, m, splat(2.0000714765e-1f));
    p = fma_(p, m, splat(-2.4999993993e-1f));
    p = fma_(p, m, splat(3.3333331174e-1f));
    p = fma_(e, splat(-2.12194440e-4f), p * m * s) - 0.5f * s;
    return pick(x == x, fma_(e, splat(0.693359375f), m + p), x);
}
#endif

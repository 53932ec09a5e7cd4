/* Operands of products, and what gates are computed with. */
#ifndef PIPELINE_NUMBERS_H
#define PIPELINE_NUMBERS_H
#include "amx.h"
#include "job.h"
#include "vectors.h"

static const i64 GATES[] = {4, 3, 1, 1};
/* Operands of products, `PAIR` of which a product multiplies and adds to each sum; and the gates that are kept for the
 * backward pass. With LOW these are in float16: gates are in -1 .. 1, where it has 8 times the precision of bfloat16,
 * which would spoil differences such as 1 - gate. */
#ifdef LOW
enum { PAIR = 2, AMX_NUMBERS = 32 /* in a row of a register of AMX */ };
typedef uint32_t pair __attribute__((aligned(2), may_alias));
INLINE vec load_num(const num *p) {
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
}
INLINE void store_num(num *p, vec v) { _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh((__m512)v)); }
INLINE vec load_kept(const num *p) { return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
INLINE void store_kept(num *p, vec v) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE vec splat_operand(const num *p) { return (vec)_mm512_set1_epi32((int)*(const pair *)p); }
INLINE vec multiply_add(vec a, vec b, vec c) { return (vec)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b); }
#else
enum { PAIR = 1, AMX_NUMBERS = 1 };
INLINE vec load_num(const num *p) { return load(p); }
INLINE void store_num(num *p, vec v) { store(p, v); }
INLINE vec load_kept(const num *p) { return load(p); }
INLINE void store_kept(num *p, vec v) { store(p, v); }
INLINE vec splat_operand(const num *p) { return splat(*p); }
INLINE vec multiply_add(vec a, vec b, vec c) { return fma_(a, b, c); }
#endif
/* The numbers of an operand, with the zeros that fill it up: to whole registers of AMX, or to pairs. */
INLINE i64 fill_up(const Job *job, i64 depth) {
    i64 unit = job->operands ? AMX_NUMBERS : PAIR;
    return (depth + unit - 1) / unit * unit;
}

INLINE vec sigmoid(vec x) { return 1.0f / (1.0f + exp_(-x)); }

/* Cephes' tanhf, in two ranges. Below 0.625 an odd polynomial: 1 - 2 / (exp(2x) + 1) would cancel to nothing for small x.
 * Above, that formula: it reaches exactly 1 where float32 does, at 9.01, so that saturated units pass no gradient. (One
 * rational approximation of the whole range stops at 1 - 2^-22, and features of 1e6 turn the rest into a gradient.) */
INLINE vec tanh_(vec x) {
    vec s = x * x, sign = (vec)((ints)x & (int32_t)0x80000000), size = (vec)((ints)x & 0x7fffffff);
    vec p = splat(-5.70498872745e-3f);
    p = fma_(p, s, splat(2.06390887954e-2f));
    p = fma_(p, s, splat(-5.37397155531e-2f));
    p = fma_(p, s, splat(1.33314422036e-1f));
    p = fma_(p, s, splat(-3.33332819422e-1f));
    vec large = 1.0f - 2.0f / (exp_(size + size) + 1.0f);
    return pick(size < 0.625f, fma_(p * s, x, x), (vec)((ints)large | (ints)sign));
}
#endif

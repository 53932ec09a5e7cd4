/* Units of recurrent layers for inference: one step, from the products to the new states. */
#ifndef PIPELINE_UNITS_H
#define PIPELINE_UNITS_H
#include "rows.h"
#include "vectors.h"
#include <string.h>

/* The smaller or larger of two, of which x is kept if it is NaN. */
#if defined(__AVX512F__) && LANES == 16
INLINE vec at_most(vec x, vec y) { return (vec)_mm512_min_ps((__m512)y, (__m512)x); }
INLINE vec at_least(vec x, vec y) { return (vec)_mm512_max_ps((__m512)y, (__m512)x); }
#elif defined(__FMA__) && LANES == 8
INLINE vec at_most(vec x, vec y) { return (vec)_mm256_min_ps((__m256)y, (__m256)x); }
INLINE vec at_least(vec x, vec y) { return (vec)_mm256_max_ps((__m256)y, (__m256)x); }
#elif defined(__aarch64__)
INLINE vec at_most(vec x, vec y) { return (vec)vminq_f32((float32x4_t)x, (float32x4_t)y); } /* NaN if either is */
INLINE vec at_least(vec x, vec y) { return (vec)vmaxq_f32((float32x4_t)x, (float32x4_t)y); }
#else
INLINE vec at_most(vec x, vec y) { return pick(x > y, y, x); }
INLINE vec at_least(vec x, vec y) { return pick(x < y, y, x); }
#endif

/* 2^x, relative error 1e-7, for x in +-28: a polynomial of the fraction, times a power of 2 made of exponent bits.
 * 1.5 2^23 is added, so that the sum is rounded to a whole number, which is then in its lowest bits. The gates' products
 * below stay finite in this range, and beyond it sigmoid and tanh differ from 0 and 1 by less than 4e-9. 2^0 is exactly
 * 1: places added to the hidden size stay 0. A NaN stays one. */
INLINE vec exp2_(vec x) {
    x = at_least(at_most(x, splat(28.0f)), splat(-28.0f));
    vec whole = x + 12582912.0f, r = x - (whole - 12582912.0f);
    vec p = fma_(r, splat(1.326472731e-3f), splat(9.671512991e-3f));
    p = fma_(p, r, splat(5.550733581e-2f));
    p = fma_(p, r, splat(2.402224243e-1f));
    p = fma_(p, r, splat(6.931470037e-1f));
    p = fma_(p, r, splat(1.0f));
    return p * (vec)(((ints)whole << 23) + 0x3f800000);
}

/* LANES units of one step of one row. `a` are the recurrent products; `g` the input products, the gates `step` apart.
 * With sigmoid(y) = 1 / (1 + 2^a) and tanh(y) = (2^a - 1) / (2^a + 1), fractions are brought to one denominator, because
 * a division takes as long as ten other operations. */
#define LOG2E 1.442695041f
INLINE vec sigmoid_power(const float *a, const float *g) { return exp2_(fma_(load(g), splat(-LOG2E), load(a))); }
INLINE vec tanh_power(vec a, const float *g) { return exp2_(fma_(load(g), splat(2 * LOG2E), a)); }
INLINE void lstm_unit(const float *a, const float *g, i64 step, float *h, float *c) {
    vec i = sigmoid_power(a, g) + 1.0f, f = sigmoid_power(a + LANES, g + step) + 1.0f;
    vec n = tanh_power(load(a + 2 * LANES), g + 2 * step), o = sigmoid_power(a + 3 * LANES, g + 3 * step);
    vec both = i * (n + 1.0f);
    vec cell = fma_(load(c), both, (n - 1.0f) * f) / (both * f);
    vec e = exp2_(cell * (2 * LOG2E));
    store(c, cell);
    store(h, (e - 1.0f) / ((o + 1.0f) * (e + 1.0f)));
}
INLINE void gru_unit(const float *a, const float *g, i64 step, float *h) {
    vec r = sigmoid_power(a, g) + 1.0f, z = sigmoid_power(a + LANES, g + step);
    vec n = tanh_power(load(a + 2 * LANES) / r, g + 2 * step);
    store(h, fma_(load(h), n + 1.0f, (n - 1.0f) * z) / ((z + 1.0f) * (n + 1.0f)));
}
INLINE void tanh_unit(const float *a, const float *g, float *h) {
    vec e = tanh_power(load(a), g);
    store(h, (e - 1.0f) / (e + 1.0f));
}
INLINE void relu_unit(const float *a, const float *g, float *h) { store(h, at_least(load(a) + load(g), splat(0.0f))); }

/* Units of a panel for `rows` rows: recurrent products in `a`; input products in the rows `g`, from `column` on, with
 * gates `step` apart. Of the last panel of a table only `left` units are there. */
INLINE void units(const int cell, i64 vecs, int rows, const float *a, const float *const *g, i64 column, i64 step, i64 left,
                  float *h, float *c, i64 wide) {
    float copy[4 * LANES] = {0};
    const i64 gates = cell == LSTM ? 4 : cell == GRU ? 3 : 1, whole = cell < TANH ? LANES : vecs * LANES;
    for (int r = 0; r < rows; r++, h += wide, c += wide, a += 4 * LANES) {
        const float *own = g[r] + column;
        i64 own_step = step;
        if (left < whole) {
            for (i64 gate = 0; gate < gates; gate++)
                memcpy(copy + gate * LANES, own + gate * step, sizeof(float) * (size_t)left);
            own = copy, own_step = LANES;
        }
        if (cell == LSTM) lstm_unit(a, own, own_step, h, c);
        else if (cell == GRU) gru_unit(a, own, own_step, h);
        else
            for (i64 v = 0; v < vecs; v++)
                if (cell == TANH) tanh_unit(a + v * LANES, own + v * LANES, h + v * LANES);
                else relu_unit(a + v * LANES, own + v * LANES, h + v * LANES);
    }
}
#endif

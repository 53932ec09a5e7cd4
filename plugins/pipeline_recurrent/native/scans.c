/* Linear recurrences over packed rows, forward and backward: h[t] = keep[t] h[t-1] + add[t].
 *
 * Torch's operations read and write all steps once per operation. Here the gates of a step are computed from a matrix
 * product, and its state from them, in one pass over memory. The backward pass computes the gates again instead of
 * reading them. Steps are computed one time after another: a step has rows x features numbers, which are computed in
 * vectors, and the state before it is still in the cache.
 *
 * Packed steps are time-major and rows sorted by descending length, so that the rows 0 .. sizes[t]-1 run at time t. A
 * row begins at time 0, or in the backward direction (`reverse`) at its own last step. A feature of a row depends on no
 * other row or feature, and where a product and a sum are one operation, the source says so (-ffp-contract=off): no bit
 * depends on the batch, or on the number of threads. A NaN stays in its row.
 *
 * The loops over features are plain C that gcc and clang turn into vectors: both branches of a choice are computed.
 * This file includes itself for each type of number. */
#ifndef NUM
#include "kernels.h"
#include <string.h>

/* Nothing reads the processor's exception flags. Without this, gcc would not compute both branches of a choice. It
 * changes no result. Clang assumes it by itself. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-trapping-math")
#endif

/* The recurrences, and the columns of their product, each `features` wide.
 *   LINEAR   none: factors and terms are given
 *   MIN_GRU  gate, candidate:              keep = sigmoid(-gate), add = sigmoid(gate) candidate
 *   MIN_LSTM forget, take, candidate:      keep = f / (f + i), add = i / (f + i) candidate, f = sigmoid(forget), ...
 *   LRU      real and imaginary part:      keep = factors, add = scale x; states have both parts side by side too */
enum { LINEAR, MIN_GRU, MIN_LSTM, LRU };

typedef struct { /* scans.py has the same list */
    i64 cell;
    i64 positive;       /* minGRU, minLSTM: the candidate is x + 0.5, or sigmoid(x) below 0 */
    i64 reverse, features, times;
    i64 from, to;       /* the times to compute now, in reading order: those before, or backward after, are done */
    i64 d_stride;       /* numbers from the gradients of one step to those of the next */
    i64 first;          /* the step at which the product begins; backward: its gradient */
    const i64 *sizes;   /* times: number of running rows */
    const void *product; /* steps x (columns x features), without the bias */
    const void *bias;    /* minGRU, minLSTM: columns x features */
    const void *keep, *add;      /* LINEAR: steps x features */
    const void *factors, *scale; /* LRU: real and imaginary parts, 2 x features; features */
    const void *start;  /* rows x state: initial states; LINEAR: or null */
    void *states;       /* steps x state */
    const void *d_states;
    void *d_product, *d_keep, *d_add;
    void *d_start;      /* rows x state: zeros on entry */
    void *sums;         /* LRU: 3 x features, zeros on entry: scratch for some steps' part of these: */
    double *d_constants; /* LRU: 3 x features, zeros on entry: gradients of the factors' parts and of the scale */
} Scan;

typedef struct {
    const Scan *scan;
    i64 chunks, next;
    void (*run)(const Scan *, i64 low, i64 high);
} Work;

/* Chunks of columns begin at multiples of 128 bytes or so, so that threads write to different cache lines. */
#define COLUMNS 32

#ifdef SET
/* What each thread runs: take the next chunk until none is left. */
static void run_chunks(void *given) {
    Work *work = given;
    for (;;) {
        i64 chunk = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED);
        if (chunk >= work->chunks) return;
        i64 blocks = (work->scan->features + COLUMNS - 1) / COLUMNS;
        i64 low = blocks * chunk / work->chunks * COLUMNS, high = blocks * (chunk + 1) / work->chunks * COLUMNS;
        work->run(work->scan, low, high < work->scan->features ? high : work->scan->features);
    }
}

#define NUM float
#define BITS int32_t
#define IS_DOUBLE 0
#include "scans.c"
#undef NUM
#undef BITS
#undef IS_DOUBLE
#define NUM double
#define BITS int64_t
#define IS_DOUBLE 1
#include "scans.c"
#endif

#else /* for one type of number */

/* A function's name for this type of number. */
#define T(name) NAME(NAME(name, _), NUM)

INLINE NUM T(fma)(NUM a, NUM b, NUM c) {
#if defined(__FMA__) || defined(__aarch64__)
    return IS_DOUBLE ? (NUM)__builtin_fma(a, b, c) : (NUM)__builtin_fmaf((float)a, (float)b, (float)c);
#else
    return a * b + c;
#endif
}

/* exp of a number that is not positive: 2^n exp(r) with n = round(x / ln 2) and |r| <= ln(2) / 2, where the series ends
 * after r^7, or r^13, with an error of less than a bit. ln 2 is subtracted in two parts, of which the first has few
 * bits, so that n times it is exact. Adding 1.5 2^23 (or 2^52) rounds to a whole number, which is then in the lowest
 * bits. Clamped, so that 2^n stays a normal number, by a comparison that keeps a NaN. */
INLINE NUM T(exp)(NUM x) {
    const NUM least = IS_DOUBLE ? (NUM)-708.0 : (NUM)-87.0;
    const NUM magic = IS_DOUBLE ? (NUM)6755399441055744.0 : (NUM)12582912.0;
    const NUM high = IS_DOUBLE ? (NUM)6.93145751953125e-1 : (NUM)0.693359375;
    const NUM low = IS_DOUBLE ? (NUM)1.42860682030941723212e-6 : (NUM)-2.12194440e-4;
    x = x < least ? least : x;
    NUM shifted = T(fma)(x, (NUM)1.44269504088896340736, magic), n = shifted - magic;
    NUM r = T(fma)(n, -low, T(fma)(n, -high, x)), p = (NUM)(1.0 / 5040);
    if (IS_DOUBLE) {
        p = T(fma)((NUM)(1.0 / 6227020800), r, (NUM)(1.0 / 479001600));
        p = T(fma)(p, r, (NUM)(1.0 / 39916800));
        p = T(fma)(p, r, (NUM)(1.0 / 3628800));
        p = T(fma)(p, r, (NUM)(1.0 / 362880));
        p = T(fma)(p, r, (NUM)(1.0 / 40320));
        p = T(fma)(p, r, (NUM)(1.0 / 5040));
    }
    p = T(fma)(p, r, (NUM)(1.0 / 720));
    p = T(fma)(p, r, (NUM)(1.0 / 120));
    p = T(fma)(p, r, (NUM)(1.0 / 24));
    p = T(fma)(p, r, (NUM)(1.0 / 6));
    p = T(fma)(p, r, (NUM)0.5);
    p = T(fma)(p, r, (NUM)1.0);
    p = T(fma)(p, r, (NUM)1.0);
    BITS bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (BITS)((IS_DOUBLE ? (uint64_t)bits << 52 : (uint64_t)((uint32_t)bits << 23)) +
                  (IS_DOUBLE ? (uint64_t)1023 << 52 : (uint64_t)127 << 23));
    NUM scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

typedef struct {
    NUM keep, take;     /* which add to 1, each without cancellation */
    NUM closed[2];      /* minLSTM: 1 - f and 1 - i */
} T(Gates);

INLINE T(Gates) T(min_gru_gates)(NUM gate) {
    NUM size = gate < 0 ? gate : -gate, e = T(exp)(size), large = 1 / (1 + e), small = e * large;
    T(Gates) gates = {.keep = gate > 0 ? small : large, .take = gate > 0 ? large : small};
    return gates;
}

/* f / (f + i) with sigmoids f and i, which may both round to 0. With e(x) = exp(-|x|), sigmoid(x) is
 * exp(min(x, 0)) / (1 + e(x)), and the quotient is multiplied by both denominators, and by the larger exponential's
 * inverse. */
INLINE T(Gates) T(min_lstm_gates)(NUM forget, NUM take) {
    NUM f = forget > 0 ? 0 : forget, i = take > 0 ? 0 : take, wide = i - f;
    NUM a = T(exp)(forget < 0 ? forget : -forget), b = T(exp)(take < 0 ? take : -take);
    NUM e = T(exp)(wide < 0 ? wide : -wide), one_a = 1 + a, one_b = 1 + b;
    NUM first = wide > 0 ? one_b * e : one_b, second = wide > 0 ? one_a : one_a * e;
    NUM inverse = 1 / (first + second);
    T(Gates) gates = {.keep = first * inverse, .take = second * inverse,
                   .closed = {(forget < 0 ? 1 : a) / one_a, (take < 0 ? 1 : b) / one_b}};
    return gates;
}

/* The candidate after its activation, and its derivative. */
INLINE NUM T(activate)(NUM x, int positive, NUM *slope) {
    *slope = 1;
    if (!positive) return x;
    NUM e = T(exp)(x < 0 ? x : -x), s = e / (1 + e), curve = s * (1 - s), shifted = x + (NUM)0.5;
    *slope = x >= 0 ? 1 : curve;
    return x >= 0 ? shifted : s;
}

/* One step of one row: n features of it, each `wide` numbers from those of the next column of the product. */
INLINE void T(step)(const int cell, const int positive, i64 n, i64 wide, const NUM *restrict product,
                 const NUM *restrict bias, const NUM *restrict add, const NUM *restrict factors,
                 const NUM *restrict scale, const NUM *restrict before, NUM *restrict h) {
    for (i64 j = 0; j < n; j++) {
        NUM slope;
        if (cell == LINEAR) {
            h[j] = T(fma)(product[j], before[j], add[j]);
        } else if (cell == MIN_GRU) {
            T(Gates) gates = T(min_gru_gates)(product[j] + bias[j]);
            NUM value = T(activate)(product[wide + j] + bias[wide + j], positive, &slope);
            h[j] = T(fma)(gates.keep, before[j], gates.take * value);
        } else if (cell == MIN_LSTM) {
            T(Gates) gates = T(min_lstm_gates)(product[j] + bias[j], product[wide + j] + bias[wide + j]);
            NUM value = T(activate)(product[2 * wide + j] + bias[2 * wide + j], positive, &slope);
            h[j] = T(fma)(gates.keep, before[j], gates.take * value);
        } else {
            NUM a = factors[j], b = factors[wide + j], x = before[j], y = before[wide + j];
            h[j] = T(fma)(a, x, T(fma)(-b, y, scale[j] * product[j]));
            h[wide + j] = T(fma)(a, y, T(fma)(b, x, scale[j] * product[wide + j]));
        }
    }
}

/* The same backward. `carry` is the gradient that comes from the step after it, and then that of the state before. */
INLINE void T(step_back)(const int cell, const int positive, i64 n, i64 wide, const NUM *restrict product,
                      const NUM *restrict bias, const NUM *restrict factors, const NUM *restrict scale,
                      const NUM *restrict before, const NUM *restrict d_states, NUM *restrict d_product,
                      NUM *restrict d_add, NUM *restrict carry, NUM *restrict sums) {
    for (i64 j = 0; j < n; j++) {
        NUM d = d_states[j] + carry[j], slope;
        if (cell == LINEAR) {
            d_add[j] = d;
            d_product[j] = d * before[j];
            carry[j] = d * product[j];
        } else if (cell == MIN_GRU) {
            T(Gates) gates = T(min_gru_gates)(product[j] + bias[j]);
            NUM value = T(activate)(product[wide + j] + bias[wide + j], positive, &slope);
            d_product[j] = d * (value - before[j]) * (gates.keep * gates.take);
            d_product[wide + j] = d * gates.take * slope;
            carry[j] = d * gates.keep;
        } else if (cell == MIN_LSTM) {
            T(Gates) gates = T(min_lstm_gates)(product[j] + bias[j], product[wide + j] + bias[wide + j]);
            NUM value = T(activate)(product[2 * wide + j] + bias[2 * wide + j], positive, &slope);
            NUM ratio = d * (before[j] - value) * (gates.keep * gates.take);
            d_product[j] = ratio * gates.closed[0];
            d_product[wide + j] = -ratio * gates.closed[1];
            d_product[2 * wide + j] = d * gates.take * slope;
            carry[j] = d * gates.keep;
        } else {
            NUM a = factors[j], b = factors[wide + j], x = before[j], y = before[wide + j];
            NUM e = d_states[wide + j] + carry[wide + j];
            sums[j] = T(fma)(d, x, T(fma)(e, y, sums[j]));
            sums[wide + j] = T(fma)(e, x, T(fma)(-d, y, sums[wide + j]));
            sums[2 * wide + j] = T(fma)(d, product[j], T(fma)(e, product[wide + j], sums[2 * wide + j]));
            d_product[j] = d * scale[j];
            d_product[wide + j] = e * scale[j];
            carry[j] = T(fma)(a, d, b * e);
            carry[wide + j] = T(fma)(a, e, -b * d);
        }
    }
}

/* Numbers per step of a product and of a state, per feature. */
static const i64 T(PRODUCTS)[] = {1, 2, 3, 2}, T(STATES)[] = {1, 1, 1, 2};

/* The columns low .. high-1 of all rows. */
INLINE void T(forward)(const int cell, const int positive, const Scan *scan, i64 low, i64 high) {
    const i64 last = scan->times - 1, wide = scan->features, *sizes = scan->sizes, n = high - low;
    const i64 in = T(PRODUCTS)[cell] * wide, out = T(STATES)[cell] * wide;
    const NUM *product = (const NUM *)(cell == LINEAR ? scan->keep : scan->product) + low;
    const NUM *add = cell == LINEAR ? (const NUM *)scan->add + low : 0, *factors = 0, *scale = 0;
    const NUM *start = scan->start ? (const NUM *)scan->start + low : 0;
    NUM *states = (NUM *)scan->states + low;
    const NUM *bias = cell == MIN_GRU || cell == MIN_LSTM ? (const NUM *)scan->bias + low : 0;
    if (cell == LRU) factors = (const NUM *)scan->factors + low, scale = (const NUM *)scan->scale + low;
    i64 here = 0, left = 0; /* the first step of this time, and of the time before in reading order */
    for (i64 s = scan->reverse ? scan->from : 0; s < (scan->reverse ? scan->times : scan->from); s++) {
        left = here;
        here += sizes[scan->reverse ? last - s : s];
    }
    for (i64 s = scan->from; s < scan->to; s++) {
        i64 t = scan->reverse ? last - s : s;
        if (scan->reverse) left = here, here -= sizes[t];
        i64 going = s == 0 ? 0 : scan->reverse ? sizes[t + 1] : sizes[t]; /* rows that do not begin now */
        for (i64 row = 0; row < sizes[t]; row++) {
            i64 at = here + row;
            const NUM *before = row < going ? states + (left + row) * out : start ? start + row * out : 0;
            if (cell == LINEAR && !before)
                memcpy(states + at * out, add + at * out, sizeof(NUM) * n);
            else
                T(step)(cell, positive, n, wide, product + (at - scan->first) * in, bias,
                        cell == LINEAR ? add + at * in : 0, factors, scale, before, states + at * out);
        }
        if (!scan->reverse) left = here, here += sizes[t];
    }
}

/* Add the sums of some steps to the gradients of an LRU's constants: a sum of all in float would lose digits. */
INLINE void T(flush)(const Scan *scan, i64 low, i64 high) {
    NUM *sums = scan->sums;
    for (i64 part = 0; part < 3; part++)
        for (i64 j = part * scan->features + low; j < part * scan->features + high; j++)
            scan->d_constants[j] += sums[j], sums[j] = 0;
}

INLINE void T(backward)(const int cell, const int positive, const Scan *scan, i64 low, i64 high) {
    const i64 last = scan->times - 1, wide = scan->features, *sizes = scan->sizes, n = high - low;
    const i64 in = T(PRODUCTS)[cell] * wide, out = T(STATES)[cell] * wide;
    const NUM *product = (const NUM *)(cell == LINEAR ? scan->keep : scan->product) + low, *factors = 0, *scale = 0;
    const NUM *start = scan->start ? (const NUM *)scan->start + low : 0, *states = (const NUM *)scan->states + low;
    const NUM *d_states = (const NUM *)scan->d_states + low;
    NUM *d_product = (NUM *)(cell == LINEAR ? scan->d_keep : scan->d_product) + low, *sums = 0;
    NUM *d_add = cell == LINEAR ? (NUM *)scan->d_add + low : 0, *d_start = (NUM *)scan->d_start + low;
    const NUM *bias = cell == MIN_GRU || cell == MIN_LSTM ? (const NUM *)scan->bias + low : 0;
    if (cell == LRU) {
        factors = (const NUM *)scan->factors + low, scale = (const NUM *)scan->scale + low;
        sums = (NUM *)scan->sums + low;
    }
    i64 here = 0;
    for (i64 s = scan->reverse ? scan->to : 0; s < (scan->reverse ? scan->times : scan->to); s++)
        here += sizes[scan->reverse ? last - s : s];
    for (i64 s = scan->to - 1; s >= scan->from; s--) {
        i64 t = scan->reverse ? last - s : s;
        if (!scan->reverse) here -= sizes[t];
        i64 left = s == 0 ? here : scan->reverse ? here + sizes[t] : here - sizes[t - 1];
        i64 going = s == 0 ? 0 : scan->reverse ? sizes[t + 1] : sizes[t];
        for (i64 row = 0; row < sizes[t]; row++) {
            i64 at = here + row;
            const NUM *before = row < going ? states + (left + row) * out : start ? start + row * out : 0;
            NUM *carry = d_start + row * out;
            if (cell == LINEAR && !before) {
                for (i64 j = 0; j < n; j++) {
                    d_add[at * in + j] = d_states[at * scan->d_stride + j] + carry[j];
                    d_product[at * in + j] = 0;
                }
                continue;
            }
            T(step_back)(cell, positive, n, wide, product + at * in, bias, factors, scale, before,
                         d_states + at * scan->d_stride, d_product + (at - scan->first) * in,
                         cell == LINEAR ? d_add + at * in : 0, carry, sums);
        }
        if (cell == LRU && (s % 64 == 0 || s == scan->from)) T(flush)(scan, low, high);
        if (scan->reverse) here += sizes[t];
    }
}

/* A pass, specialized for each recurrence. */
#define EACH(pass)                                                                                                    \
    switch (scan->cell * 2 + (scan->positive != 0)) {                                                                 \
    case LINEAR * 2: pass(LINEAR, 0, scan, low, high); break;                                                         \
    case MIN_GRU * 2: pass(MIN_GRU, 0, scan, low, high); break;                                                       \
    case MIN_GRU * 2 + 1: pass(MIN_GRU, 1, scan, low, high); break;                                                   \
    case MIN_LSTM * 2: pass(MIN_LSTM, 0, scan, low, high); break;                                                     \
    case MIN_LSTM * 2 + 1: pass(MIN_LSTM, 1, scan, low, high); break;                                                 \
    case LRU * 2: pass(LRU, 0, scan, low, high); break;                                                               \
    }
static void T(run_forward)(const Scan *scan, i64 low, i64 high) { EACH(T(forward)) }
static void T(run_backward)(const Scan *scan, i64 low, i64 high) { EACH(T(backward)) }

/* A whole scan. Chunks change which thread does the work, no bit. */
void NAME(T(pipeline_scan), NAME(_, SET))(const Scan *scan, i64 back, i64 chunks, i64 threads, Team *team) {
    Work work = {.scan = scan, .chunks = chunks, .run = back ? T(run_backward) : T(run_forward)};
    if (threads > 1) team(run_chunks, &work, (unsigned)threads, 0);
    else run_chunks(&work);
}
#undef EACH
#undef T
#endif

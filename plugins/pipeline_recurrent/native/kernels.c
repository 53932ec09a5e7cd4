/* Recurrent layers over packed rows, forward and backward.
 *
 * The plain engine calls a general matrix product per step. A step has some ten rows, for which such products are not
 * made, and the gates are then read from memory again for the activations. Here the sums of a few rows and one vector
 * of hidden units stay in registers: the recurrent product is added to them, the gates are computed from them, and only
 * the results are written. The weights are rearranged once per call (panels), so that the product reads them in order.
 *
 * GNU vector extensions (gcc, clang, zig); libc only: nothing of torch, no BLAS. This file is compiled once per
 * instruction set, with -DSET=<its name> -DLANES=<floats per vector> -DTILE=<rows per tile>; native.toml explains TILE.
 * Sets with products of bfloat16 are compiled once more, with -DLOW: operands of products are bfloat16 then, and
 * everything that is added up or carried from step to step is float. A row's state is rounded only as an operand of the
 * next step's product.
 *
 * No -ffast-math: a NaN must survive. No contraction (-ffp-contract=off): where a product and a sum are one operation,
 * the source says so, so that a row's bits do not depend on the tile, the chunk or the number of threads.
 *
 * Terms: packed steps are time-major and rows sorted by descending length, so that the rows 0 .. alive[t]-1 run at time
 * t. A row begins at time 0, or in the backward direction (`reverse`) at its own last step. `depth` is the hidden size,
 * `wide` the same rounded up to whole vectors; the added places never change a real one. Gates lie side by side, each
 * `wide` floats:
 *   LSTM  input, forget, cell, output                               (torch's order)
 *   GRU   new, reset, update, and in training the new gate's recurrent part: what meets the input weights (the first
 *         three) is contiguous, and so is what meets the recurrent weights (the last three)
 *   RNN   the only one                                                                                      */
#include "kernels.h"
#include <string.h>

enum { LSTM, GRU, TANH, RELU };
#ifdef LOW
typedef uint16_t num; /* a bfloat16 */
#else
typedef float num;
#endif

typedef struct { /* one direction of one layer; library.py has the same list */
    i64 cell, reverse, depth, wide, times, rows, steps;
    i64 keep;                /* forward: a backward pass will follow; backward: initial states need gradients */
    i64 gate_stride;         /* numbers from the gates of one step to those of the next */
    i64 state_stride;        /* the same for states, where the directions lie side by side */
    const i64 *alive;        /* times: number of running rows */
    const num *weight;       /* gates*depth x depth: torch's weight_hh */
    num *panels;             /* gates*wide*wide: scratch for the rearranged weights */
    const float *bias;       /* GRU: wide: the new gate's recurrent bias. LOW: one for each gate, in the gates' order */
    num *gates;              /* steps: in, the input product, with LOW without biases; out, with keep, the gates */
    float *cells;            /* LSTM with keep: steps x wide */
    num *states;             /* steps, by state_stride */
    float *output;           /* LOW: steps, by state_stride: the states before rounding; or null */
    const num *h0;           /* rows x wide: initial states */
    const float *c0;
    float *h1, *c1;          /* rows x wide: final states; copies of h0, c0 on entry */
    const float *d_states;   /* backward: steps, by state_stride */
    num *d_gates;            /* backward: steps, by gate_stride; may be the gates, which are read first */
    float *d_h, *d_c;        /* backward: rows x wide: in, gradients of final states; out, of initial states */
    num *before;             /* backward: steps x depth: the state before each step, for the weight gradients */
} Job;

#ifdef SET
#include "vectors.h"
static const i64 GATES[] = {4, 3, 1, 1};
/* Operands of products, `PAIR` of which a product multiplies and adds to each sum; and the gates that are kept for the
 * backward pass. With LOW these are in float16: gates are in -1 .. 1, where it has 8 times the precision of bfloat16,
 * which would spoil differences such as 1 - gate. */
#ifdef LOW
enum { PAIR = 2 };
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
enum { PAIR = 1 };
INLINE vec load_num(const num *p) { return load(p); }
INLINE void store_num(num *p, vec v) { store(p, v); }
INLINE vec load_kept(const num *p) { return load(p); }
INLINE void store_kept(num *p, vec v) { store(p, v); }
INLINE vec splat_operand(const num *p) { return splat(*p); }
INLINE vec multiply_add(vec a, vec b, vec c) { return fma_(a, b, c); }
#endif
/* `depth` rounded up to whole pairs: with LOW a zero is added to an odd one. */
INLINE i64 round_up(i64 depth) { return (depth + PAIR - 1) / PAIR * PAIR; }

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

/* sums[row][v] += a[row] . panel column v. After inlining, `rows` and `vecs` are constants, so sums are registers.
 * Each loaded vector of the panel is used for all rows of the tile, and the panel is read in order. AVX-512 reads a
 * whole cache line per vector: these are requested 8 steps of k ahead. */
INLINE void product(const int rows, const int vecs, vec sums[TILE][4], const num *a, i64 stride, const num *panel,
                    i64 depth) {
    const int line = LANES * PAIR;
    for (i64 k = 0; k < depth; k += PAIR, panel += vecs * line) {
        vec column[4];
        UNROLL for (int v = 0; v < vecs; v++) {
            column[v] = load((const float *)(panel + v * line));
            if (LANES == 16) __builtin_prefetch(panel + (8 * vecs + v) * line);
        }
        UNROLL for (int r = 0; r < rows; r++) {
            vec x = splat_operand(a + r * stride + k);
            UNROLL for (int v = 0; v < vecs; v++) sums[r][v] = multiply_add(x, column[v], sums[r][v]);
        }
    }
}

/* All `count` rows in tiles, then a smaller tile for the rest; each size is compiled separately. */
#define TILED(CALL)                                                                                                   \
    i64 row = 0;                                                                                                      \
    for (; row + TILE <= count; row += TILE) CALL(TILE);                                                              \
    switch (count - row) {                                                                                            \
    case 1: CALL(1); break;                                                                                           \
    case 2: CALL(2); break;                                                                                           \
    case 3: if (3 < TILE) CALL(3 < TILE ? 3 : 1); break;                                                              \
    case 4: if (4 < TILE) CALL(4 < TILE ? 4 : 1); break;                                                              \
    case 5: if (5 < TILE) CALL(5 < TILE ? 5 : 1); break;                                                              \
    }

/* Some rows at one step: pointers to their inputs and outputs. A tile computes the hidden units from `unit` on: one
 * vector, or up to four for the plain RNN and the backward pass. */
typedef struct {
    const num *a, *panel;
    const float *bias, *c0;
    i64 a_stride, depth, wide, gate_stride, state_stride, unit;
    num *gates, *h;
    float *c, *h1, *output;
    int keep;
} Part;

/* The input's part of a gate. */
INLINE vec load_input(const Part *at, const num *gates, i64 place) {
#ifdef LOW
    return load_num(gates + place) + load(at->bias + place);
#else
    return (void)at, load_num(gates + place);
#endif
}
/* The state of a row that its step begins with, not rounded. */
INLINE vec load_state(const Part *at, i64 row) {
#ifdef LOW
    return load(at->h1 + row * at->wide + at->unit);
#else
    return load(at->a + row * at->a_stride + at->unit);
#endif
}
INLINE void store_state(const Part *at, i64 row, i64 unit, vec h) {
    store_num(at->h + row * at->state_stride + unit, h);
#ifdef LOW
    store(at->h1 + row * at->wide + unit, h);
    if (at->output) store(at->output + row * at->state_stride + unit, h);
#endif
}

INLINE void lstm_tile(const int rows, const Part *at, i64 row) {
    vec sums[TILE][4];
    num *gates = at->gates + row * at->gate_stride;
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < 4; v++)
        sums[r][v] = load_input(at, gates + r * at->gate_stride, at->unit + v * at->wide);
    product(rows, 4, sums, at->a + row * at->a_stride, at->a_stride, at->panel, at->depth);
    UNROLL for (int r = 0; r < rows; r++) {
        i64 cell = (row + r) * at->wide + at->unit;
        vec i = sigmoid(sums[r][0]), f = sigmoid(sums[r][1]), g = tanh_(sums[r][2]), o = sigmoid(sums[r][3]);
        vec c = fma_(f, load(at->c0 + cell), i * g);
        store(at->c + cell, c);
        store_state(at, row + r, at->unit, o * tanh_(c));
        if (at->keep) {
            num *kept = gates + r * at->gate_stride + at->unit;
            store_kept(kept, i), store_kept(kept + at->wide, f);
            store_kept(kept + 2 * at->wide, g), store_kept(kept + 3 * at->wide, o);
        }
    }
}

INLINE void gru_tile(const int rows, const Part *at, i64 row) {
    vec sums[TILE][4];
    num *gates = at->gates + row * at->gate_stride;
    UNROLL for (int r = 0; r < rows; r++) {
        sums[r][0] = load_input(at, gates + r * at->gate_stride, at->unit + at->wide);
        sums[r][1] = load_input(at, gates + r * at->gate_stride, at->unit + 2 * at->wide);
        sums[r][2] = load(at->bias + at->unit + (PAIR - 1) * 3 * at->wide); /* LOW: after those of the other gates */
    }
    product(rows, 3, sums, at->a + row * at->a_stride, at->a_stride, at->panel, at->depth);
    UNROLL for (int r = 0; r < rows; r++) {
        num *kept = gates + r * at->gate_stride + at->unit;
        vec reset = sigmoid(sums[r][0]), update = sigmoid(sums[r][1]);
        vec fresh = tanh_(fma_(reset, sums[r][2], load_input(at, gates + r * at->gate_stride, at->unit)));
        vec h = fma_(update, load_state(at, row + r) - fresh, fresh);
        store_state(at, row + r, at->unit, h);
        if (at->keep) {
            store_kept(kept, fresh), store_kept(kept + at->wide, reset), store_kept(kept + 2 * at->wide, update);
            store_num(kept + 3 * at->wide, sums[r][2]); /* may be too large for float16 */
        }
    }
}

/* The plain RNN; or, with cell < 0, the backward pass through the gates: h1 += a . panel. */
INLINE void plain_tile(const int rows, const int vecs, const Part *at, i64 row, int cell) {
    vec sums[TILE][4];
    num *gates = at->gates + row * at->gate_stride;
    float *h1 = at->h1 + row * at->wide + at->unit;
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vecs; v++)
        sums[r][v] = cell < 0 ? load(h1 + r * at->wide + v * LANES)
                              : load_input(at, gates + r * at->gate_stride, at->unit + v * LANES);
    product(rows, vecs, sums, at->a + row * at->a_stride, at->a_stride, at->panel, at->depth);
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vecs; v++) {
        i64 unit = at->unit + v * LANES;
        vec x = sums[r][v];
        if (cell < 0) {
            store(h1 + r * at->wide + v * LANES, x);
            continue;
        }
        x = cell == TANH ? tanh_(x) : pick(x < 0.0f, splat(0.0f), x); /* keeps a NaN */
        store_state(at, row + r, unit, x);
        if (PAIR > 1 && at->keep) store_kept(gates + r * at->gate_stride + unit, x);
    }
}

/* The whole width, a vector of units at a time, as arranged by pack_units. */
static void lstm_parts(Part at, i64 count) {
    for (; at.unit < at.wide; at.unit += LANES, at.panel += round_up(at.depth) * 4 * LANES) {
#define CALL(n) lstm_tile(n, &at, row)
        TILED(CALL)
#undef CALL
    }
}
static void gru_parts(Part at, i64 count) {
    for (; at.unit < at.wide; at.unit += LANES, at.panel += round_up(at.depth) * 3 * LANES) {
#define CALL(n) gru_tile(n, &at, row)
        TILED(CALL)
#undef CALL
    }
}
INLINE void plain_part(const int vecs, const Part *at, i64 count, int cell) {
#define CALL(n) plain_tile(n, vecs, at, row, cell)
    TILED(CALL)
#undef CALL
}
/* The whole width, four vectors at a time, as arranged by pack_rows. */
static void plain_parts(Part at, i64 count, int cell) {
    for (; at.unit < at.wide; at.unit += 4 * LANES, at.panel += round_up(at.depth) * 4 * LANES) {
#define CALL(n) plain_part(n, &at, count, cell)
        switch ((at.wide - at.unit) / LANES) {
        case 1: CALL(1); break;
        case 2: CALL(2); break;
        case 3: CALL(3); break;
        default: CALL(4);
        }
#undef CALL
    }
}

/* Panel `at` of the forward pass of gated cells: depth x gates x LANES, for the hidden units from at*LANES on; with LOW
 * the pairs of depth innermost. All gates of a unit are in one panel, so that a tile can compute its new state. */
static void pack_units(const Job *job, i64 at) {
    i64 gates = GATES[job->cell], block = gates * LANES, deep = round_up(job->depth);
    num *panel = job->panels + at * deep * block;
    for (i64 g = 0; g < gates; g++)
        for (i64 v = 0; v < LANES; v++) {
            i64 unit = at * LANES + v, real = unit < job->depth ? job->depth : 0, k = 0;
            const num *row = job->weight + (g * job->depth + unit) * job->depth;
            num *to = panel + (g * LANES + v) * PAIR;
            for (; k + PAIR <= real; k += PAIR) memcpy(to + k * block, row + k, sizeof(num) * PAIR);
            for (; k < deep; k++) to[k / PAIR * PAIR * block + k % PAIR] = k < real ? row[k] : 0;
        }
}
/* Panel `at` of four vectors (or the rest) of a matrix's columns, row after row. The RNN's forward product reads the
 * weights transposed; the backward pass reads them as they are, with each gate padded to whole vectors. */
static void pack_rows(const Job *job, i64 at, int transposed) {
    const i64 depth = job->depth, first = at * 4 * LANES, left = depth - first;
    i64 deep = transposed ? round_up(depth) : GATES[job->cell] * job->wide;
    i64 vecs = job->wide - first < 4 * LANES ? job->wide - first : 4 * LANES, real = left < vecs ? left : vecs;
    i64 right = transposed ? depth : 1, down = transposed ? 1 : depth;
    num *to = job->panels + deep * first;
    for (i64 k = 0; k < deep; k += PAIR, to += vecs * PAIR) {
        i64 unit = k % job->wide, rows = depth - unit < PAIR ? depth - unit : PAIR;
        const num *from = job->weight + (transposed ? first * depth + k : (k / job->wide * depth + unit) * depth + first);
        if (real < vecs || rows < PAIR) memset(to, 0, sizeof(num) * vecs * PAIR);
        if (!transposed && rows == PAIR) { /* the usual case, which compilers make vectors of */
            for (i64 v = 0; v < real; v++)
                for (int p = 0; p < PAIR; p++) to[v * PAIR + p] = from[p * depth + v];
            continue;
        }
        for (i64 v = 0; v < real; v++)
            for (i64 p = 0; p < rows; p++) to[v * PAIR + p] = from[p * down + v * right];
    }
}

/* Rows `low` .. `high`-1 through all their steps. Rows are independent, so threads share them out and never wait for
 * each other within a layer. */
static void forward(const Job *job, i64 low, i64 high) {
    const i64 last = job->times - 1, wide = job->wide, *alive = job->alive, lstm = job->cell == LSTM;
    i64 here = job->reverse ? job->steps : 0; /* the first packed step of this time */
    for (i64 s = 0; s <= last; s++) {
        i64 t = job->reverse ? last - s : s;
        if (job->reverse) here -= alive[t];
        i64 end = alive[t] < high ? alive[t] : high;
        i64 left = s == 0 ? here : job->reverse ? here + alive[t] : here - alive[t - 1]; /* that of the time before */
        i64 begin = s == 0 ? 0 : job->reverse ? alive[t + 1] : end; /* the first row that begins now */
        begin = begin < low ? low : begin < end ? begin : end;
        for (i64 half = 0; half < 2; half++) { /* running rows, then rows that begin */
            i64 from = half ? begin : low, count = (half ? end : begin) - from;
            if (count <= 0) continue;
            num *h = job->states + (here + from) * job->state_stride, *gates = job->gates + (here + from) * job->gate_stride;
            Part part = {.a = half ? job->h0 + from * wide : job->states + (left + from) * job->state_stride,
                         .a_stride = half ? wide : job->state_stride, .depth = job->depth, .wide = wide,
                         .panel = job->panels, .bias = job->bias, .gates = gates, .gate_stride = job->gate_stride,
                         .h = h, .state_stride = job->state_stride, .h1 = job->h1 + from * wide,
                         .output = job->output ? job->output + (here + from) * job->state_stride : 0,
                         .keep = job->keep != 0};
            if (lstm) {
                /* Without keep the cells are updated in c1, which is a copy of c0 on entry. */
                part.c = (job->keep ? job->cells + here * wide : job->c1) + from * wide;
                part.c0 = !job->keep ? part.c : (half ? job->c0 : job->cells + left * wide) + from * wide;
            }
            if (job->cell >= TANH) plain_parts(part, count, (int)job->cell);
            else if (lstm) lstm_parts(part, count);
            else gru_parts(part, count);
#ifdef LOW
            /* The next product reads an odd depth in pairs. Zero times infinity would be NaN. */
            if (job->depth % 2)
                for (i64 row = 0; row < count; row++) h[row * job->state_stride + job->depth] = 0;
#endif
        }
        i64 done = job->reverse ? (t == 0 ? low : end) : t == last ? low : alive[t + 1] < low ? low : alive[t + 1];
        for (i64 row = done; row < end; row++) { /* rows that end now */
#ifndef LOW
            memcpy(job->h1 + row * wide, job->states + (here + row) * job->state_stride, sizeof(float) * wide);
#endif
            if (lstm && job->keep) memcpy(job->c1 + row * wide, job->cells + (here + row) * wide, sizeof(float) * wide);
        }
        if (!job->reverse) here += alive[t];
    }
}

/* One step of one row: d_gates, and the direct part of d_h and d_c for the step before. The part that passes through
 * the gates is a matrix product, added afterwards for all rows of the step. */
INLINE void step_back(const int cell, const Job *job, const num *gates, const num *states, const num *h0,
                      const float *c, const float *c0, const float *d_states, num *d_gates, float *d_h, float *d_c) {
    const i64 wide = job->wide;
    for (i64 u = 0; u < wide; u += LANES) {
        vec d = load(d_states + u) + load(d_h + u), rest = splat(0.0f);
        if (cell == LSTM) {
            vec i = load_kept(gates + u), f = load_kept(gates + wide + u), g = load_kept(gates + 2 * wide + u);
            vec o = load_kept(gates + 3 * wide + u), y = tanh_(load(c + u));
            vec dc = fma_(d * o, 1.0f - y * y, load(d_c + u));
            store_num(d_gates + u, dc * g * (i * (1.0f - i)));
            store_num(d_gates + wide + u, dc * load(c0 + u) * (f * (1.0f - f)));
            store_num(d_gates + 2 * wide + u, dc * i * (1.0f - g * g));
            store_num(d_gates + 3 * wide + u, d * y * (o * (1.0f - o)));
            store(d_c + u, dc * f);
        } else if (cell == GRU) {
            vec n = load_kept(gates + u), r = load_kept(gates + wide + u), z = load_kept(gates + 2 * wide + u);
            vec dn = d * (1.0f - z) * (1.0f - n * n);
            store_num(d_gates + u, dn);
            store_num(d_gates + wide + u, dn * load_num(gates + 3 * wide + u) * (r * (1.0f - r)));
            store_num(d_gates + 2 * wide + u, d * (load_num(h0 + u) - n) * (z * (1.0f - z)));
            store_num(d_gates + 3 * wide + u, dn * r);
            rest = d * z;
        } else {
            vec h = PAIR > 1 ? load_kept(gates + u) : load_num(states + u);
            store_num(d_gates + u, cell == TANH ? d * (1.0f - h * h) : pick(h <= 0.0f, splat(0.0f), d));
        }
        store(d_h + u, rest);
    }
    /* Zero padding: infinity times a padding weight's zero is NaN, which would spread through all later products. */
    for (i64 gate = 0; gate < job->gate_stride; gate += wide)
        for (i64 u = job->depth; u < wide; u++) d_gates[gate + u] = 0;
}

static void backward(const Job *job, i64 low, i64 high) {
    const i64 last = job->times - 1, wide = job->wide, *alive = job->alive, cell = job->cell;
    const i64 deep = GATES[cell] * wide, skip = cell == GRU ? wide : 0;
    i64 here = job->reverse ? 0 : job->steps;
    for (i64 s = last; s >= 0; s--) {
        i64 t = job->reverse ? last - s : s;
        if (!job->reverse) here -= alive[t];
        i64 end = alive[t] < high ? alive[t] : high;
        i64 left = s == 0 ? here : job->reverse ? here + alive[t] : here - alive[t - 1];
        i64 begin = s == 0 ? 0 : job->reverse ? alive[t + 1] : end;
        begin = begin < low ? low : begin < end ? begin : end;
        for (i64 row = low; row < end; row++) {
            i64 at = here + row, from = left + row;
            const num *gates = job->gates + at * job->gate_stride, *states = job->states + at * job->state_stride;
            const num *h0 = row < begin ? job->states + from * job->state_stride : job->h0 + row * wide;
            const float *d_states = job->d_states + at * job->state_stride;
            num *d_gates = job->d_gates + at * job->gate_stride;
            float *d_h = job->d_h + row * wide;
            if (cell == LSTM)
                step_back(LSTM, job, gates, states, h0, job->cells + at * wide,
                          row < begin ? job->cells + from * wide : job->c0 + row * wide, d_states, d_gates, d_h,
                          job->d_c + row * wide);
            else if (cell == GRU)
                step_back(GRU, job, gates, states, h0, 0, 0, d_states, d_gates, d_h, 0);
            else if (cell == TANH)
                step_back(TANH, job, gates, states, h0, 0, 0, d_states, d_gates, d_h, 0);
            else
                step_back(RELU, job, gates, states, h0, 0, 0, d_states, d_gates, d_h, 0);
            memcpy(job->before + at * job->depth, h0, sizeof(num) * job->depth);
        }
        /* Add the part through the gates. For rows that begin now it is a gradient of initial states, rarely needed. */
        i64 count = (job->keep ? end : begin) - low;
        Part part = {.a = job->d_gates + (here + low) * job->gate_stride + skip, .a_stride = job->gate_stride,
                     .panel = job->panels, .depth = deep, .h1 = job->d_h + low * wide, .wide = wide};
        if (count > 0) plain_parts(part, count, -1);
        if (job->reverse) here += alive[t];
    }
}

typedef struct {
    const Job *jobs;
    i64 count, chunks, next;
    int back, packing;
} Work;

/* The first row of chunk `part`, found by bisection so that all chunks have about the same number of steps. */
static i64 chunk_start(const Job *job, i64 part, i64 parts) {
    i64 low = 0, high = job->rows;
    while (low < high) {
        i64 middle = (low + high) / 2, steps = 0;
        for (i64 t = 0; t < job->times; t++) steps += job->alive[t] < middle ? job->alive[t] : middle;
        if (steps * parts < job->steps * part) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* What each thread runs: take the next task until none is left. */
static void run_tasks(void *given) {
    Work *work = given;
    for (;;) {
        i64 task = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED);
        if (task >= work->count * work->chunks) return;
        const Job *job = &work->jobs[task % work->count];
        i64 part = task / work->count;
        if (work->packing) {
            int units = !work->back && job->cell < TANH;
            i64 panels = units ? job->wide / LANES : (job->wide + 4 * LANES - 1) / (4 * LANES);
            for (i64 at = part; at < panels; at += work->chunks)
                if (units) pack_units(job, at);
                else pack_rows(job, at, !work->back);
        } else {
            i64 low = chunk_start(job, part, work->chunks), high = chunk_start(job, part + 1, work->chunks);
            (work->back ? backward : forward)(job, low, high);
        }
    }
}

/* All directions of one layer: first all panels, then all rows. Chunks change which thread does the work, no bit. */
void NAME(pipeline_run_, SET)(const Job *jobs, i64 count, i64 back, i64 chunks, i64 threads, Team *team) {
    for (int packing = 1; packing >= 0; packing--) {
        Work work = {.jobs = jobs, .count = count, .chunks = chunks, .back = back != 0, .packing = packing};
        if (threads > 1) team(run_tasks, &work, (unsigned)threads, 0);
        else run_tasks(&work);
    }
}
i64 NAME(pipeline_lanes_, SET)(void) { return LANES; }
#endif

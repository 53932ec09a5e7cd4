/* Stacks of recurrent layers over packed rows, for inference with fixed weights.
 *
 * kernels.c computes one layer per call, for training too: it rearranges the weights in each call, and torch multiplies
 * the inputs. Here the weights were arranged once, for a precision (frozen/arrange.py), and one call computes all layers
 * and directions. A product always adds in the same order, whatever the number of rows, the tile, the chunk and the
 * thread, so that a row's bits do not depend on its batch.
 *
 * Precisions. Operands of a product are words of 32 bits: one float, two bfloat16 or four bytes.
 *   FLOAT  a fused multiply-add per number
 *   BF16   vdpbf16ps: two products, added in float32. Only compiled for processors that have it; elsewhere FLOAT runs
 *          with weights that were rounded to bfloat16.
 *   INT8   vpdpbusd: four products of a byte and a signed byte, exact in int32; elsewhere the same sums by other
 *          instructions. Weights are scaled per row of the matrix (output channel), inputs and states per packed step.
 *
 * It is compiled once per instruction set; native.toml explains TILE. The order of rows and steps is
 * that of kernels.c. `vecs` vectors of columns lie side by side in a panel, and panel after panel in buffers of gates:
 *   LSTM  input, forget, cell, output of LANES units                (torch's order)
 *   GRU   reset, update, new of LANES units                         (torch's order)
 *   RNN   vecs x LANES units
 * Recurrent columns are scaled so that gates are exponents of 2: by -log2(e) before a sigmoid, by 2 log2(e) before a
 * tanh. Input products are scaled when they are added.                                                             */
#ifdef SET
#include "kernels.h"
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { LSTM, GRU, TANH, RELU };
enum { FLOAT, BF16, INT8 };

typedef struct { /* a matrix with its bias, arranged for products; library.py has the same list, as of the next ones */
    const int32_t *panels;  /* panels x words x vecs x LANES */
    const float *bias;      /* panels x vecs x LANES */
    const float *scales;    /* INT8: the same shape: the value of 1 in a weight */
    const int32_t *offsets; /* INT8: the same shape: -128 times the sum of the weights, because inputs have 128 added */
    i64 words;              /* of an operand */
} Matrix;

typedef struct { /* one direction of one layer */
    Matrix input, state;
    const float *table; /* instead of `input`: id x gates x hidden: input products with their biases, in torch's order */
    i64 table_stride;
} Direction;

typedef struct {
    i64 features;               /* of an input vector; or the number of ids */
    const float *weight, *shift; /* of the normalization of the output; null if there is none */
    double epsilon;
    const Direction *directions;
} Layer;

typedef struct {
    i64 cell, precision, count, directions, residual;
    i64 hidden, panels, vecs; /* units; panels of a matrix; vectors in a panel */
    const Layer *layers;
} Stack;

typedef struct { /* one batch; initial and final states are (layers x directions) x batch x hidden, in reading order */
    i64 batch, rows, times, steps; /* rows that have steps; the longest row; packed steps */
    const i64 *alive;              /* times: number of running rows; null if that is always `rows` */
    const i64 *order;              /* rows in reading order, the longest first; null if they are in this order */
    const float *x;                /* steps x features */
    const i64 *ids;                /* steps: instead of x, if there is a table */
    const float *h0, *c0;          /* null for zeros */
    float *h1, *c1;
    float *output;                 /* steps x (directions x hidden) */
} Batch;

static i64 count_alive(const Batch *batch, i64 time) { return batch->alive ? batch->alive[time] : batch->rows; }
static i64 row_id(const Batch *batch, i64 row) { return batch->order ? batch->order[row] : row; }


#define UNROLL _Pragma("GCC unroll 8")
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t loose_ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec load(const float *p) { return (vec)*(const loose *)p; }
INLINE ints load_ints(const int32_t *p) { return (ints)*(const loose_ints *)p; }
INLINE void store(float *p, vec v) { *(loose *)p = (loose)v; }
INLINE vec splat(float x) { return x - (vec){0}; }
INLINE ints splat_int(int32_t x) { return x - (ints){0}; }
INLINE vec convert(ints x) { return __builtin_convertvector(x, vec); }

/* a * b + c, rounded once; and the smaller or larger of two, of which x is kept if it is NaN. */
#if defined(__AVX512F__) && LANES == 16
INLINE vec fma_(vec a, vec b, vec c) { return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE vec at_most(vec x, vec y) { return (vec)_mm512_min_ps((__m512)y, (__m512)x); }
INLINE vec at_least(vec x, vec y) { return (vec)_mm512_max_ps((__m512)y, (__m512)x); }
INLINE ints madd(ints a, ints b) { return (ints)_mm512_madd_epi16((__m512i)a, (__m512i)b); }
#define HAS_MADD
#elif defined(__FMA__) && LANES == 8
INLINE vec fma_(vec a, vec b, vec c) { return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE vec at_most(vec x, vec y) { return (vec)_mm256_min_ps((__m256)y, (__m256)x); }
INLINE vec at_least(vec x, vec y) { return (vec)_mm256_max_ps((__m256)y, (__m256)x); }
INLINE ints madd(ints a, ints b) { return (ints)_mm256_madd_epi16((__m256i)a, (__m256i)b); }
#define HAS_MADD
#elif defined(__aarch64__)
INLINE vec fma_(vec a, vec b, vec c) { return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
INLINE vec at_most(vec x, vec y) { return (vec)vminq_f32((float32x4_t)x, (float32x4_t)y); } /* NaN if either is */
INLINE vec at_least(vec x, vec y) { return (vec)vmaxq_f32((float32x4_t)x, (float32x4_t)y); }
#else
INLINE vec pick(ints yes, vec a, vec b) { return (vec)((yes & (ints)a) | (~yes & (ints)b)); }
INLINE vec fma_(vec a, vec b, vec c) { return a * b + c; }
INLINE vec at_most(vec x, vec y) { return pick(x > y, y, x); }
INLINE vec at_least(vec x, vec y) { return pick(x < y, y, x); }
#endif

/* sums + u . w, for the four bytes of each lane: of u unsigned, of w signed. */
INLINE ints add_bytes(ints sums, ints u, ints w) {
#ifdef __AVX512VNNI__
    return (ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)u, (__m512i)w);
#elif defined(HAS_MADD)
    /* Not vpmaddubsw, which saturates. Even and odd bytes as 16-bit numbers. */
    typedef int16_t shorts __attribute__((vector_size(4 * LANES)));
    ints even = u & 0x00ff00ff, odd = (ints)((u >> 8) & 0x00ff00ff);
    return sums + madd(even, (ints)((shorts)((shorts)w << 8) >> 8)) + madd(odd, (ints)((shorts)w >> 8));
#else
    for (int byte = 0; byte < 4; byte++) sums += (u >> 8 * byte & 255) * (w << (24 - 8 * byte) >> 24);
    return sums;
#endif
}

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

/* Operands: rows of words, `stride` apart, of whole vectors, of which places beyond the numbers are 0. */
typedef struct {
    int32_t *words;
    float *scales; /* INT8 */
    i64 stride;
} Operand;

/* Make row `row` of an operand of `size` numbers. */
INLINE void encode(const int precision, const Operand *to, i64 row, const float *from, i64 size) {
    int32_t *words = to->words + row * to->stride;
    if (precision == FLOAT) {
        memcpy(words, from, sizeof(float) * (size_t)size);
        return;
    }
    float rest[LANES] = {0}; /* the last vector of a row ends with zeros, not with the next row */
    i64 whole = size / LANES * LANES;
    memcpy(rest, from + whole, sizeof(float) * (size_t)(size - whole));
#ifdef __AVX512BF16__
    if (precision == BF16) {
        for (i64 k = 0; k < size; k += LANES) {
            __m256bh pairs = _mm512_cvtneps_pbh((__m512)load(k < whole ? from + k : rest));
            memcpy(words + k / 2, &pairs, sizeof pairs);
        }
        return;
    }
#endif
    /* As integers, floats of one sign have the same order, and infinity and NaN come last. */
    ints largest = {0};
    for (i64 k = 0; k < size; k += LANES) {
        ints bits = (ints)load(k < whole ? from + k : rest) & 0x7fffffff, less = largest < bits;
        largest = (less & bits) | (~less & largest);
    }
    int32_t most = 0;
    for (int v = 0; v < LANES; v++) most = largest[v] > most ? largest[v] : most;
    float size_of_one, per_one = 0.0f;
    memcpy(&size_of_one, &most, sizeof most);
    if (most >= 0x7f800000) size_of_one = __builtin_nanf(""); /* infinite or NaN: the row's results are NaN */
    else if (size_of_one < 1e-30f) size_of_one = 0.0f;        /* the reciprocal could overflow */
    else per_one = 127.0f / size_of_one, size_of_one /= 127.0f;
    to->scales[row] = size_of_one;
    /* The byte 128 + round(x per_one) is the lowest one of this sum: see exp2_. */
    typedef uint8_t bytes __attribute__((vector_size(LANES)));
    for (i64 k = 0; k < size; k += LANES) {
        vec sum = fma_(load(k < whole ? from + k : rest), splat(per_one), splat(12582912.0f + 128.0f));
        bytes low = __builtin_convertvector((ints)sum, bytes);
        memcpy((uint8_t *)words + k, &low, sizeof low);
    }
}

/* to[row] = a[row] . panel + bias, for `vecs` vectors of columns. After inlining, `rows` and `vecs` are constants, so
 * that sums are registers; each loaded vector of the panel is used for all rows of the tile. */
INLINE void tile(const int precision, const int rows, const int vecs, const Matrix *by, i64 panel, const Operand *a,
                 i64 row, float *to, i64 to_stride) {
    const i64 words = by->words, width = vecs * LANES, stride = a->stride;
    const int32_t *columns = by->panels + panel * words * width, *from = a->words + row * stride;
    const float *bias = by->bias + panel * width;
    /* Sums of each type have variables of their own: otherwise gcc moves them around, at half the speed. */
    vec sums[TILE][4];
    ints counts[TILE][4];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vecs; v++) {
        if (precision == INT8) counts[r][v] = load_ints(by->offsets + panel * width + v * LANES);
        else sums[r][v] = load(bias + v * LANES);
    }
    for (i64 k = 0; k < words; k++, columns += width) {
        ints column[4];
        UNROLL for (int v = 0; v < vecs; v++) column[v] = load_ints(columns + v * LANES);
        UNROLL for (int r = 0; r < rows; r++) {
            ints x = splat_int(from[r * stride + k]);
            UNROLL for (int v = 0; v < vecs; v++) {
                if (precision == FLOAT) sums[r][v] = fma_((vec)x, (vec)column[v], sums[r][v]);
#ifdef __AVX512BF16__
                if (precision == BF16)
                    sums[r][v] = (vec)_mm512_dpbf16_ps((__m512)sums[r][v], (__m512bh)x, (__m512bh)column[v]);
#endif
                if (precision == INT8) counts[r][v] = add_bytes(counts[r][v], x, column[v]);
            }
        }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vecs; v++) {
        if (precision == INT8)
            sums[r][v] = fma_(convert(counts[r][v]), splat(a->scales[row + r]) * load(by->scales + panel * width + v * LANES),
                              load(bias + v * LANES));
        store(to + r * to_stride + v * LANES, sums[r][v]);
    }
}
#define TILE_OF(n) case n: if (n <= TILE) tile(precision, n <= TILE ? n : 1, vecs, by, panel, a, row, to, to_stride); break;
#define TILES(p, v)                                                                                                   \
    static void tile_##p##_##v(int rows, const Matrix *by, i64 panel, const Operand *a, i64 row, float *to,           \
                               i64 to_stride) {                                                                       \
        enum { precision = p, vecs = v };                                                                             \
        switch (rows) { TILE_OF(1) TILE_OF(2) TILE_OF(3) TILE_OF(4) TILE_OF(5) TILE_OF(6) }                           \
    }
typedef void Tile(int rows, const Matrix *, i64 panel, const Operand *, i64 row, float *to, i64 to_stride);
TILES(FLOAT, 1) TILES(FLOAT, 2) TILES(FLOAT, 3) TILES(FLOAT, 4)
TILES(INT8, 1) TILES(INT8, 2) TILES(INT8, 3) TILES(INT8, 4)
#ifdef __AVX512BF16__
TILES(BF16, 1) TILES(BF16, 2) TILES(BF16, 3) TILES(BF16, 4)
#define BF16_TILES {tile_BF16_1, tile_BF16_2, tile_BF16_3, tile_BF16_4}
#else
#define BF16_TILES {0}
#endif
static Tile *const TILES_OF[3][4] = {
    {tile_FLOAT_1, tile_FLOAT_2, tile_FLOAT_3, tile_FLOAT_4}, BF16_TILES, {tile_INT8_1, tile_INT8_2, tile_INT8_3, tile_INT8_4},
};

static void encode_row(i64 precision, const Operand *to, i64 row, const float *from, i64 size) {
    switch (precision) {
    case FLOAT: encode(FLOAT, to, row, from, size); break;
    case BF16: encode(BF16, to, row, from, size); break;
    default: encode(INT8, to, row, from, size);
    }
}

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

/* One direction of one layer over the rows low .. high-1. Rows are independent: threads share them out. */
typedef struct {
    const Stack *stack;
    const Batch *batch;
    const Direction *by;
    const float *x;
    float *output;
    i64 features, reverse, state; /* state: which of the initial and final states */
    i64 low, high;
} Task;

enum { BLOCK = 48 }; /* input products are computed for this number of steps at a time, or for all rows of one time */

static i64 round_up(i64 size) { return (size + 15) / 16 * 16; }

static int run_task(const Task *task) {
    const Stack *stack = task->stack;
    const Batch *batch = task->batch;
    const Direction *by = task->by;
    const i64 low = task->low, rows = task->high - low, hidden = stack->hidden, precision = stack->precision;
    const i64 cell = stack->cell, vecs = stack->vecs, panels = stack->panels, width = vecs * LANES;
    const i64 columns = panels * width, wide = cell < TANH ? panels * LANES : columns, times = batch->times;
    const i64 out_stride = stack->directions * hidden;
    i64 most = rows > BLOCK ? rows : BLOCK;
    if (most > batch->steps) most = batch->steps;
    const i64 inputs = by->table ? 0 : most, x_stride = round_up(by->input.words), a_stride = round_up(by->state.words);
    /* All scratch in one piece: floats and words of 4 bytes. */
    const i64 need = 2 * rows * wide + rows * (a_stride + 1) + inputs * (x_stride + 1 + columns) + 64 + round_up(rows);
    float *scratch = malloc(sizeof(float) * (size_t)need);
    const float **gates = malloc(sizeof(float *) * (size_t)(most + 1));
    if (!scratch || !gates) { free(scratch), free(gates); return 1; }
    float *at = (float *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
    float *made = at; at += inputs * columns;
    float *h = at; at += rows * wide;
    float *c = at; at += rows * wide;
    Operand a = {.words = (int32_t *)at, .stride = a_stride}; at += rows * a_stride;
    Operand x = {.words = (int32_t *)at, .stride = x_stride}; at += inputs * x_stride;
    a.scales = at; at += rows;
    x.scales = at;
    memset(h, 0, sizeof(float) * (size_t)(2 * rows * wide)); /* with the places added to the hidden size */
    for (i64 r = 0; r < rows; r++) {
        i64 from = (task->state * batch->batch + row_id(batch, low + r)) * hidden;
        if (batch->h0) memcpy(h + r * wide, batch->h0 + from, sizeof(float) * (size_t)hidden);
        if (batch->c0) memcpy(c + r * wide, batch->c0 + from, sizeof(float) * (size_t)hidden);
        encode_row(precision, &a, r, h + r * wide, hidden);
    }
    Tile *tile_of = TILES_OF[precision][vecs - 1];
    i64 here = task->reverse ? batch->steps : 0; /* forward: the first packed step of this time; backward: of the last */
    for (i64 s = 0, next; s < times; s = next) {
        /* The steps of some times, and their input products. */
        i64 count = 0, first = here;
        for (next = s; next < times; next++) {
            i64 running = count_alive(batch, task->reverse ? times - 1 - next : next);
            i64 own = (running < task->high ? running : task->high) - low;
            if (own < 0) own = 0;
            if (count && count + own > most) break;
            if (task->reverse) first -= running;
            for (i64 r = 0; r < own; r++) {
                i64 step = first + low + r;
                if (by->table) gates[count + r] = by->table + batch->ids[step] * by->table_stride;
                else {
                    gates[count + r] = made + (count + r) * columns;
                    encode_row(precision, &x, count + r, task->x + step * task->features, task->features);
                }
            }
            count += own;
            if (!task->reverse) first += running;
        }
        if (!by->table)
            for (i64 panel = 0; panel < panels; panel++)
                for (i64 r = 0; r < count; r += TILE)
                    tile_of((int)(count - r < TILE ? count - r : TILE), &by->input, panel, &x, r,
                            made + r * columns + panel * width, columns);
        const float *const *own_gates = gates;
        for (i64 each = s; each < next; each++) {
            i64 running = count_alive(batch, task->reverse ? times - 1 - each : each);
            i64 own = (running < task->high ? running : task->high) - low;
            if (task->reverse) here -= running;
            for (i64 panel = 0; panel < panels; panel++) {
                i64 unit = panel * (cell < TANH ? LANES : width), left = by->table ? hidden - unit : width;
                i64 column = by->table ? unit : panel * width, step = by->table ? hidden : LANES;
                for (i64 r = 0; r < own; r += TILE) {
                    float products[TILE * 4 * LANES] __attribute__((aligned(64)));
                    int n = (int)(own - r < TILE ? own - r : TILE);
                    tile_of(n, &by->state, panel, &a, r, products, 4 * LANES);
                    float *own_h = h + r * wide + unit, *own_c = c + r * wide + unit;
                    switch (cell) {
                    case LSTM: units(LSTM, vecs, n, products, own_gates + r, column, step, left, own_h, own_c, wide); break;
                    case GRU: units(GRU, vecs, n, products, own_gates + r, column, step, left, own_h, own_c, wide); break;
                    case TANH: units(TANH, vecs, n, products, own_gates + r, column, step, left, own_h, own_c, wide); break;
                    default: units(RELU, vecs, n, products, own_gates + r, column, step, left, own_h, own_c, wide);
                    }
                }
            }
            for (i64 r = 0; r < own; r++) {
                encode_row(precision, &a, r, h + r * wide, hidden);
                memcpy(task->output + (here + low + r) * out_stride, h + r * wide, sizeof(float) * (size_t)hidden);
            }
            if (own > 0) own_gates += own;
            if (!task->reverse) here += running;
        }
    }
    /* A row that has ended is not computed further, so these are all final states. */
    for (i64 r = 0; r < rows; r++) {
        i64 to = (task->state * batch->batch + row_id(batch, low + r)) * hidden;
        memcpy(batch->h1 + to, h + r * wide, sizeof(float) * (size_t)hidden);
        if (batch->c1) memcpy(batch->c1 + to, c + r * wide, sizeof(float) * (size_t)hidden);
    }
    free(scratch), free(gates);
    return 0;
}

/* The mean of x - shift, or of its squares; always in the same order. */
INLINE float mean_of(const float *x, i64 size, float shift, const int squares) {
    vec sums = {0};
    float sum = 0;
    i64 k = 0;
    for (; k + LANES <= size; k += LANES) {
        vec own = load(x + k) - shift;
        sums = squares ? fma_(own, own, sums) : sums + own;
    }
    for (; k < size; k++) sum += squares ? (x[k] - shift) * (x[k] - shift) : x[k] - shift;
    for (int v = 0; v < LANES; v++) sum += sums[v];
    return sum / (float)size;
}

/* Add the layer's input to its output, and normalize: both per step, in place. */
static void finish_layer(const Layer *layer, const float *x, float *output, i64 steps, i64 width) {
    for (i64 step = 0; step < steps; step++, output += width) {
        if (x)
            for (i64 k = 0; k < width; k++) output[k] += x[step * width + k];
        if (!layer->weight) continue;
        float mean = mean_of(output, width, 0.0f, 0), square = mean_of(output, width, mean, 1);
        float scale = 1.0f / __builtin_sqrtf(square + (float)layer->epsilon);
        for (i64 k = 0; k < width; k++) output[k] = (output[k] - mean) * scale * layer->weight[k] + layer->shift[k];
    }
}

typedef struct {
    const Stack *stack;
    const Batch *batch;
    const Task *layer; /* what all tasks share */
    i64 chunks, next, failed;
} Work;

/* The first row of chunk `part`, found by bisection so that all chunks have about the same number of steps. */
static i64 chunk_start(const Batch *batch, i64 part, i64 parts) {
    i64 low = 0, high = batch->rows;
    while (low < high && parts > 1) {
        i64 middle = (low + high) / 2, steps = 0;
        for (i64 t = 0; t < batch->times; t++) {
            i64 running = count_alive(batch, t);
            steps += running < middle ? running : middle;
        }
        if (steps * parts < batch->steps * part) low = middle + 1;
        else high = middle;
    }
    return parts > 1 ? low : part * high;
}

/* What each thread runs: take the next task until none is left. */
static void run_tasks(void *given) {
    Work *work = given;
    const i64 directions = work->stack->directions;
    for (;;) {
        i64 number = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED);
        if (number >= directions * work->chunks) return;
        i64 direction = number % directions, part = number / directions;
        Task task = *work->layer;
        task.by += direction, task.state += direction, task.reverse = direction;
        task.output += direction * work->stack->hidden;
        task.low = chunk_start(work->batch, part, work->chunks);
        task.high = chunk_start(work->batch, part + 1, work->chunks);
        if (task.low < task.high && run_task(&task)) __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
    }
}

/* Compute a batch. Return 0; or 1 if there was no memory, 2 if an id is out of range. Chunks change which thread does the
 * work, no bit. */
int NAME(pipeline_infer_, SET)(const Stack *stack, const Batch *batch, i64 chunks, i64 threads, Team *team) {
    const i64 width = stack->directions * stack->hidden, between = stack->count > 1 ? batch->steps * width : 0;
    /* The outputs of all layers but the last: one is read while the next one is written. */
    float *buffers = between ? malloc(sizeof(float) * (size_t)(2 * between)) : 0;
    if (between && !buffers) return 1;
    const float *x = batch->x;
    for (i64 step = 0; batch->ids && step < batch->steps; step++)
        if (batch->ids[step] < 0 || batch->ids[step] >= stack->layers[0].features) return 2;
    i64 failed = 0;
    for (i64 number = 0; number < stack->count && !failed; number++) {
        const Layer *layer = &stack->layers[number];
        float *output = number == stack->count - 1 ? batch->output : buffers + number % 2 * between;
        const Task task = {.stack = stack, .batch = batch, .by = layer->directions, .x = x, .output = output,
                           .features = layer->features, .state = number * stack->directions};
        Work work = {.stack = stack, .batch = batch, .layer = &task, .chunks = chunks};
        if (threads > 1) team(run_tasks, &work, (unsigned)threads, 0);
        else run_tasks(&work);
        failed = work.failed;
        const float *added = stack->residual && number ? x : 0;
        if (added || layer->weight) finish_layer(layer, added, output, batch->steps, width);
        x = output;
    }
    free(buffers);
    return (int)failed;
}

/* Whether BF16 is compiled for this instruction set. */
i64 NAME(pipeline_bfloat16_, SET)(void) {
#ifdef __AVX512BF16__
    return 1;
#else
    return 0;
#endif
}
#endif

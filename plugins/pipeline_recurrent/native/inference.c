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
 * BF16 and INT8 are multiplied by AMX (amx.h) where the machine has it: BF16 always, since AMX adds in another order, and
 * a row's bits must not depend on the number of rows. The sums of INT8 are exact, so that small products are left to
 * vpdpbusd, which is faster for them.
 *
 * It is compiled once per instruction set; native.toml explains TILE. The order of rows and steps is
 * that of kernels.c. `vecs` vectors of columns lie side by side in a panel, and panel after panel in buffers of gates:
 *   LSTM  input, forget, cell, output of LANES units                (torch's order)
 *   GRU   reset, update, new of LANES units                         (torch's order)
 *   RNN   vecs x LANES units
 * Recurrent columns are scaled so that gates are exponents of 2: by -log2(e) before a sigmoid, by 2 log2(e) before a
 * tanh. Input products are scaled when they are added.                                                             */
#ifdef SET
#include "amx.h"
#include "rows.h"
#include "units.h"
#include "words.h"
#include <stdlib.h>
#include <string.h>

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
    i64 amx;                  /* whether to use AMX: operands have whole registers of words then, the last ones 0 */
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

static i64 count_alive(const Batch *batch, i64 time) { return count_running(batch->alive, batch->rows, time); }
static i64 row_id(const Batch *batch, i64 row) { return batch->order ? batch->order[row] : row; }

/* A sum of products of bytes, as a number: `place` is that of the weights' scales. */
INLINE vec scale_counts(ints counts, float scale, const Matrix *by, i64 place) {
    return fma_(convert(counts), splat(scale) * load(by->scales + place), load(by->bias + place));
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
        if (precision == INT8) sums[r][v] = scale_counts(counts[r][v], a->scales[row + r], by, panel * width + v * LANES);
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

#ifdef HAS_AMX
AMX static void multiply_bytes(i64 vecs, i64 rows, const AmxProduct *by) { multiply_vecs(1, vecs, rows, by); }
#endif
/* The same for a block of rows: up to TILE, or AMX_ROWS with AMX, which reads and writes 16 or 32. Blocks of bytes that
 * vectors multiply are divided into tiles. */
static void multiply_block(const Stack *stack, i64 rows, const Matrix *by, i64 panel, const Operand *a, i64 row, float *to,
                           i64 to_stride) {
#ifdef HAS_AMX
    const int bytes = stack->precision == INT8;
    if (stack->amx && (!bytes || (rows > 4 && by->words >= 2 * AMX_WORDS))) {
        const i64 vecs = stack->vecs, width = vecs * LANES;
        const AmxProduct product = {
            .a = a->words + row * a->stride, .a_stride = sizeof(int32_t) * a->stride,
            .panel = by->panels + panel * by->words * width, .words = by->words,
            .start = bytes ? (const void *)(by->offsets + panel * width) : by->bias + panel * width,
            .to = to, .to_stride = sizeof(float) * to_stride,
        };
        (bytes ? multiply_bytes : multiply_bfloat16)(vecs, rows, &product);
        for (i64 r = 0; bytes && r < rows; r++)
            for (i64 v = 0; v < width; v += LANES) {
                float *sum = to + r * to_stride + v;
                store(sum, scale_counts(load_ints((const int32_t *)sum), a->scales[row + r], by, panel * width + v));
            }
        return;
    }
#endif
    Tile *tile_of = TILES_OF[stack->precision][stack->vecs - 1];
    for (i64 r = 0; r < rows; r += TILE)
        tile_of((int)(rows - r < TILE ? rows - r : TILE), by, panel, a, row + r, to + r * to_stride, to_stride);
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
    const i64 out_stride = stack->directions * hidden, block = stack->amx ? AMX_ROWS : TILE;
    i64 most = rows > BLOCK ? rows : BLOCK;
    if (most > batch->steps) most = batch->steps;
    const i64 inputs = by->table ? 0 : most, x_stride = round_up(by->input.words), a_stride = round_up(by->state.words);
    /* AMX reads and writes 16 rows at a time. */
    const i64 all_rows = round_up(rows), all_inputs = round_up(inputs);
    /* All scratch in one piece: floats and words of 4 bytes. */
    const i64 need = 2 * rows * wide + all_rows * (a_stride + 1) + all_inputs * (x_stride + 1 + columns) + 64;
    float *scratch = malloc(sizeof(float) * (size_t)need);
    const float **gates = malloc(sizeof(float *) * (size_t)(most + 1));
    if (!scratch || !gates) { free(scratch), free(gates); return 1; }
    float *at = (float *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
    float *made = at; at += all_inputs * columns;
    float *h = at; at += rows * wide;
    float *c = at; at += rows * wide;
    Operand a = {.words = (int32_t *)at, .stride = a_stride}; at += all_rows * a_stride;
    Operand x = {.words = (int32_t *)at, .stride = x_stride}; at += all_inputs * x_stride;
    a.scales = at; at += rows;
    x.scales = at;
    if (stack->amx) memset(a.words, 0, sizeof(float) * (size_t)(all_rows * a_stride + all_inputs * x_stride));
    memset(h, 0, sizeof(float) * (size_t)(2 * rows * wide)); /* with the places added to the hidden size */
    for (i64 r = 0; r < rows; r++) {
        i64 from = (task->state * batch->batch + row_id(batch, low + r)) * hidden;
        if (batch->h0) memcpy(h + r * wide, batch->h0 + from, sizeof(float) * (size_t)hidden);
        if (batch->c0) memcpy(c + r * wide, batch->c0 + from, sizeof(float) * (size_t)hidden);
        encode_row(precision, &a, r, h + r * wide, hidden);
    }
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
                for (i64 r = 0; r < count; r += block)
                    multiply_block(stack, count - r < block ? count - r : block, &by->input, panel, &x, r,
                                   made + r * columns + panel * width, columns);
        const float *const *own_gates = gates;
        for (i64 each = s; each < next; each++) {
            i64 running = count_alive(batch, task->reverse ? times - 1 - each : each);
            i64 own = (running < task->high ? running : task->high) - low;
            if (task->reverse) here -= running;
            for (i64 panel = 0; panel < panels; panel++) {
                i64 unit = panel * (cell < TANH ? LANES : width), left = by->table ? hidden - unit : width;
                i64 column = by->table ? unit : panel * width, step = by->table ? hidden : LANES;
                for (i64 r = 0; r < own; r += block) {
                    float products[AMX_ROWS * 4 * LANES] __attribute__((aligned(64)));
                    int n = (int)(own - r < block ? own - r : block);
                    multiply_block(stack, n, &by->state, panel, &a, r, products, 4 * LANES);
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

/* What each thread runs: take the next task until none is left. */
static void run_tasks(void *given) {
    Work *work = given;
    const i64 directions = work->stack->directions;
    if (work->stack->amx) begin_amx();
    for (;;) {
        i64 number = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED);
        if (number >= directions * work->chunks) break;
        i64 direction = number % directions, part = number / directions;
        Task task = *work->layer;
        task.by += direction, task.state += direction, task.reverse = direction;
        task.output += direction * work->stack->hidden;
        const Batch *batch = work->batch;
        task.low = chunk_start(batch->alive, batch->rows, batch->times, batch->steps, part, work->chunks);
        task.high = chunk_start(batch->alive, batch->rows, batch->times, batch->steps, part + 1, work->chunks);
        if (task.low < task.high && run_task(&task)) __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
    }
    if (work->stack->amx) end_amx();
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

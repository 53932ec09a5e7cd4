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
#ifdef SET
#include "numbers.h"
#include "panels.h"
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
    num *operands; /* with AMX: scratch for rows of `a` */
    const float *bias, *c0;
    i64 a_stride, depth, deep, wide, gate_stride, state_stride, output_stride, unit; /* deep: depth, as in the panel */
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
/* The first `count` numbers of a vector, or all; of a loaded one, the others are 0. */
INLINE vec load_part(const float *p, i64 count) {
    vec v = {0};
    if (count >= LANES) return load(p);
    memcpy(&v, p, sizeof(float) * (size_t)count);
    return v;
}
INLINE void store_part(float *p, vec v, i64 count) {
    if (count >= LANES) store(p, v);
    else memcpy(p, &v, sizeof(float) * (size_t)count);
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
#endif
    if (at->output) store_part(at->output + row * at->output_stride + unit, h, at->depth - unit);
}

/* Prefetch gates: since they were written they have left the cache, and they are too far apart for the processor's own
 * prefetching. */
INLINE void prefetch_gates(const int count, const num *gates, i64 wide) {
    UNROLL for (int v = 0; v < count; v++) __builtin_prefetch(gates + v * wide, 1);
}

/* Add the recurrent product of a tile; or those that were `made` with AMX, rows of four vectors. */
INLINE void add_product(const int rows, const int vecs, vec sums[TILE][4], const Part *at, i64 row, const float *made) {
    if (!made) {
        product(rows, vecs, sums, at->a + row * at->a_stride, at->a_stride, at->panel, at->depth);
        return;
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vecs; v++)
        sums[r][v] += load(made + (r * 4 + v) * LANES);
}

INLINE void lstm_tile(const int rows, const Part *at, i64 row, const float *made) {
    vec sums[TILE][4];
    num *gates = at->gates + row * at->gate_stride;
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int v = 0; v < 4; v++)
            sums[r][v] = load_input(at, gates + r * at->gate_stride, at->unit + v * at->wide);
        prefetch_gates(4, gates + r * at->gate_stride + at->unit + LANES, at->wide);
    }
    add_product(rows, 4, sums, at, row, made);
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

INLINE void gru_tile(const int rows, const Part *at, i64 row, const float *made) {
    vec sums[TILE][4];
    num *gates = at->gates + row * at->gate_stride;
    UNROLL for (int r = 0; r < rows; r++) {
        sums[r][0] = load_input(at, gates + r * at->gate_stride, at->unit + at->wide);
        sums[r][1] = load_input(at, gates + r * at->gate_stride, at->unit + 2 * at->wide);
        sums[r][2] = load(at->bias + at->unit + (PAIR - 1) * 3 * at->wide); /* LOW: after those of the other gates */
        prefetch_gates(3, gates + r * at->gate_stride + at->unit + LANES, at->wide);
    }
    add_product(rows, 3, sums, at, row, made);
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
INLINE void plain_tile(const int rows, const int vecs, const Part *at, i64 row, int cell, const float *made) {
    vec sums[TILE][4];
    num *gates = at->gates + row * at->gate_stride;
    float *h1 = at->h1 + row * at->wide + at->unit;
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vecs; v++)
        sums[r][v] = cell < 0 ? load(h1 + r * at->wide + v * LANES)
                              : load_input(at, gates + r * at->gate_stride, at->unit + v * LANES);
    add_product(rows, vecs, sums, at, row, made);
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
    for (; at.unit < at.wide; at.unit += LANES, at.panel += at.deep * 4 * LANES) {
#define CALL(n) lstm_tile(n, &at, row, 0)
        TILED(CALL)
#undef CALL
    }
}
static void gru_parts(Part at, i64 count) {
    for (; at.unit < at.wide; at.unit += LANES, at.panel += at.deep * 3 * LANES) {
#define CALL(n) gru_tile(n, &at, row, 0)
        TILED(CALL)
#undef CALL
    }
}
INLINE void plain_part(const int vecs, const Part *at, i64 count, int cell) {
#define CALL(n) plain_tile(n, vecs, at, row, cell, 0)
    TILED(CALL)
#undef CALL
}
/* The whole width, four vectors at a time, as arranged by pack_rows. */
static void plain_parts(Part at, i64 count, int cell) {
    for (; at.unit < at.wide; at.unit += 4 * LANES, at.panel += at.deep * 4 * LANES) {
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

/* The whole width of some rows; with cell < 0, the backward pass through the gates. */
static void compute_parts(Part at, i64 count, int cell) {
    if (cell == LSTM) lstm_parts(at, count);
    else if (cell == GRU) gru_parts(at, count);
    else plain_parts(at, count, cell);
}
#if defined(LOW) && defined(HAS_AMX)
/* The same with AMX, up to 32 rows at a time. */
static void compute_parts_amx(Part at, i64 count, int cell) {
    static const float zeros[4 * LANES] __attribute__((aligned(64)));
    float made[AMX_ROWS * 4 * LANES] __attribute__((aligned(64)));
    const i64 units = cell == LSTM || cell == GRU ? LANES : 4 * LANES;
    const num *first = at.panel;
    for (i64 row = 0; row < count; row += AMX_ROWS) {
        const i64 rows = count - row < AMX_ROWS ? count - row : AMX_ROWS;
        /* In one piece, and filled up: rows of packed steps are far apart, and numbers of other steps follow them. */
        for (i64 r = 0; r < rows; r++) {
            memcpy(at.operands + r * at.deep, at.a + (row + r) * at.a_stride, sizeof(num) * at.depth);
            memset(at.operands + r * at.deep + at.depth, 0, sizeof(num) * (at.deep - at.depth));
        }
        at.panel = first;
        for (at.unit = 0; at.unit < at.wide; at.unit += units) {
            const i64 left = (at.wide - at.unit) / LANES, vecs = cell == LSTM ? 4 : cell == GRU ? 3 : left < 4 ? left : 4;
            const AmxProduct by = {.a = at.operands, .a_stride = sizeof(num) * at.deep, .panel = at.panel,
                                   .words = at.deep / PAIR, .start = zeros, .to = made, .to_stride = sizeof(float) * 4 * LANES};
            multiply_bfloat16(vecs, rows, &by);
            for (i64 r = 0; r < rows; r++) {
                const float *own = made + r * 4 * LANES;
                if (cell == LSTM) lstm_tile(1, &at, row + r, own);
                else if (cell == GRU) gru_tile(1, &at, row + r, own);
                else
                    for (i64 v = 0; v < vecs; v++) {
                        Part one = at;
                        one.unit += v * LANES;
                        plain_tile(1, 1, &one, row + r, cell, own + v * LANES);
                    }
            }
            at.panel += at.deep * vecs * LANES;
        }
    }
}
#else
static void compute_parts_amx(Part at, i64 count, int cell) { compute_parts(at, count, cell); } /* never called */
#endif

/* Rows `low` .. `high`-1 through all their steps. Rows are independent, so threads share them out and never wait for
 * each other within a layer. */
static void forward(const Job *job, num *operands, i64 low, i64 high) {
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
                         .deep = fill_up(job, job->depth), .operands = operands,
                         .panel = job->panels, .bias = job->bias, .gates = gates, .gate_stride = job->gate_stride,
                         .h = h, .state_stride = job->state_stride, .h1 = job->h1 + from * wide,
                         .output = job->output ? job->output + (here + from) * job->output_stride : 0,
                         .output_stride = job->output_stride,
                         .keep = job->keep != 0};
            if (lstm) {
                /* Without keep the cells are updated in c1, which is a copy of c0 on entry. */
                part.c = (job->keep ? job->cells + here * wide : job->c1) + from * wide;
                part.c0 = !job->keep ? part.c : (half ? job->c0 : job->cells + left * wide) + from * wide;
            }
            (operands ? compute_parts_amx : compute_parts)(part, count, (int)job->cell);
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

/* The gradient of a gate, also added to the sum over the row's steps. */
INLINE void store_gradient(num *d_gates, float *sums, i64 place, vec gradient) {
    store_num(d_gates + place, gradient);
    store(sums + place, load(sums + place) + gradient);
}

/* One step of one row: d_gates, and the direct part of d_h and d_c for the step before. The part that passes through
 * the gates is a matrix product, added afterwards for all rows of the step. */
INLINE void step_back(const int cell, const Job *job, const num *gates, const num *states, const num *h0,
                      const float *c, const float *c0, const float *d_states, num *d_gates, float *d_h, float *d_c,
                      float *d_bias) {
    const i64 wide = job->wide;
    for (i64 u = 0; u < wide; u += LANES) {
        /* Of the next row. */
        prefetch_gates(cell < TANH ? 4 : 1, gates + job->gate_stride + u, wide);
        __builtin_prefetch(d_states + job->output_stride + u);
        if (cell == LSTM) __builtin_prefetch(c + wide + u);
        vec d = load_part(d_states + u, job->depth - u) + load(d_h + u), rest = splat(0.0f);
        if (cell == LSTM) {
            vec i = load_kept(gates + u), f = load_kept(gates + wide + u), g = load_kept(gates + 2 * wide + u);
            vec o = load_kept(gates + 3 * wide + u), y = tanh_(load(c + u));
            vec dc = fma_(d * o, 1.0f - y * y, load(d_c + u));
            store_gradient(d_gates, d_bias, u, dc * g * (i * (1.0f - i)));
            store_gradient(d_gates, d_bias, wide + u, dc * load(c0 + u) * (f * (1.0f - f)));
            store_gradient(d_gates, d_bias, 2 * wide + u, dc * i * (1.0f - g * g));
            store_gradient(d_gates, d_bias, 3 * wide + u, d * y * (o * (1.0f - o)));
            store(d_c + u, dc * f);
        } else if (cell == GRU) {
            vec n = load_kept(gates + u), r = load_kept(gates + wide + u), z = load_kept(gates + 2 * wide + u);
            vec dn = d * (1.0f - z) * (1.0f - n * n);
            store_gradient(d_gates, d_bias, u, dn);
            store_gradient(d_gates, d_bias, wide + u, dn * load_num(gates + 3 * wide + u) * (r * (1.0f - r)));
            store_gradient(d_gates, d_bias, 2 * wide + u, d * (load_num(h0 + u) - n) * (z * (1.0f - z)));
            store_gradient(d_gates, d_bias, 3 * wide + u, dn * r);
            rest = d * z;
        } else {
            vec h = PAIR > 1 ? load_kept(gates + u) : load_num(states + u);
            store_gradient(d_gates, d_bias, u, cell == TANH ? d * (1.0f - h * h) : pick(h <= 0.0f, splat(0.0f), d));
        }
        store(d_h + u, rest);
    }
    /* Zero padding: infinity times a padding weight's zero is NaN, which would spread through all later products. */
    for (i64 gate = 0; gate < job->gate_stride; gate += wide)
        for (i64 u = job->depth; u < wide; u++) d_gates[gate + u] = 0;
}

static void backward(const Job *job, num *operands, i64 low, i64 high) {
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
            const float *d_states = job->d_states + at * job->output_stride;
            num *d_gates = job->d_gates + at * job->gate_stride;
            float *d_h = job->d_h + row * wide, *d_bias = job->d_bias + row * job->gate_stride;
            if (cell == LSTM)
                step_back(LSTM, job, gates, states, h0, job->cells + at * wide,
                          row < begin ? job->cells + from * wide : job->c0 + row * wide, d_states, d_gates, d_h,
                          job->d_c + row * wide, d_bias);
            else if (cell == GRU)
                step_back(GRU, job, gates, states, h0, 0, 0, d_states, d_gates, d_h, 0, d_bias);
            else if (cell == TANH)
                step_back(TANH, job, gates, states, h0, 0, 0, d_states, d_gates, d_h, 0, d_bias);
            else
                step_back(RELU, job, gates, states, h0, 0, 0, d_states, d_gates, d_h, 0, d_bias);
            memcpy(job->before + at * job->depth, h0, sizeof(num) * job->depth);
        }
        /* Add the part through the gates. For rows that begin now it is a gradient of initial states, rarely needed. */
        i64 count = (job->keep ? end : begin) - low;
        Part part = {.a = job->d_gates + (here + low) * job->gate_stride + skip, .a_stride = job->gate_stride,
                     .panel = job->panels, .depth = deep, .deep = fill_up(job, deep), .operands = operands,
                     .h1 = job->d_h + low * wide, .wide = wide};
        if (count > 0) (operands ? compute_parts_amx : compute_parts)(part, count, -1);
        if (job->reverse) here += alive[t];
    }
}

typedef struct {
    const Job *jobs;
    i64 count, chunks, next;
    int back, packing;
} Work;

/* What each thread runs: take the next task until none is left. */
static void run_tasks(void *given) {
    Work *work = given;
    if (work->jobs->operands) begin_amx();
    for (;;) {
        i64 task = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED);
        if (task >= work->count * work->chunks) break;
        const Job *job = &work->jobs[task % work->count];
        i64 part = task / work->count;
        if (work->packing) {
            int units = !work->back && job->cell < TANH;
            i64 panels = units ? job->wide / LANES : (job->wide + 4 * LANES - 1) / (4 * LANES);
            for (i64 at = part; at < panels; at += work->chunks)
                if (units) pack_units(job, at);
                else pack_rows(job, at, !work->back);
        } else {
            i64 low = chunk_start(job->alive, job->rows, job->times, job->steps, part, work->chunks);
            i64 high = chunk_start(job->alive, job->rows, job->times, job->steps, part + 1, work->chunks);
            i64 deep = fill_up(job, (work->back ? GATES[job->cell] : 1) * job->wide);
            num *operands = job->operands ? job->operands + part * AMX_ROWS * deep : 0;
            (work->back ? backward : forward)(job, operands, low, high);
        }
    }
    if (work->jobs->operands) end_amx();
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
/* Whether products use AMX if jobs have `operands`. */
i64 NAME(pipeline_amx_, SET)(void) { return permit_amx(); }
#endif

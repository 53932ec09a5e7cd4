/* Linear chains over packed rows: sums of all paths, expected counts, and best paths.
 *
 * The sum over all paths up to a class needs one exponential per pair of classes if it is computed in logarithms. Here
 * the scores of a step are made relative to the largest one of the row, the product with exp(transitions) is computed,
 * and the logarithm is taken again: one exponential and one logarithm per class. Scores that are further apart than
 * floats reach would be lost in that product. A sum below TINY may have lost some, and is computed in logarithms again.
 * So results are exact for any scores, and for forbidden transitions (-inf).
 *
 * Steps are packed: time-major, and at time t the rows 0 .. sizes[t]-1 run. Rows are independent of each other, so that
 * a row's bits do not depend on its batch; only expected transitions are sums over all of them. */
#ifdef SET
#include "vectors.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct { /* native_chains.py has the same list */
    i64 classes, times, rows, steps;
    const i64 *sizes;         /* times: number of running rows */
    const float *emissions;   /* steps x classes */
    const float *transitions; /* classes x classes: of a column after a row */
    const float *start, *end; /* classes */
    float *alphas;            /* steps x classes: logarithms of the sums up to a step, relative to the row's largest */
    float *totals;            /* rows: logarithms of the sums of all paths */
    const float *weights;     /* rows: gradients of the totals */
    float *d_emissions, *d_transitions, *d_start, *d_end;
    i64 *best;                /* steps: the classes of the best paths */
} Chain;

#define TINY 1e-30f

/* Tables of a call. `wide` is the number of classes rounded up to whole vectors; the added places hold zeros, or -inf
 * where they are logarithms. */
typedef struct {
    i64 classes, wide;
    float top;        /* the largest transition, which is subtracted from all */
    float *logs;      /* classes x wide: transitions - top */
    float *products;  /* classes x wide: exp(logs) */
    float *logs_t;    /* the same, transposed */
    float *products_t;
    float *step;      /* wide: the scores of one step */
    float *state;     /* rows x wide: exponentials of each row's scores */
    float *scores;    /* rows x wide: their logarithms */
    float *sums;      /* classes x wide: expected transitions before they are multiplied by `products` */
    char *memory;
} Tables;

static int make_tables(Tables *tables, const Chain *chain) {
    i64 n = chain->classes, wide = (n + LANES - 1) / LANES * LANES;
    i64 square = n * wide, rows = chain->rows * wide;
    char *memory = calloc((size_t)(5 * square + 2 * rows + wide + LANES), sizeof(float));
    if (!memory) return 1;
    float *p = (float *)(((uintptr_t)memory + 4 * LANES - 1) / (4 * LANES) * (4 * LANES));
    *tables = (Tables){.classes = n, .wide = wide, .memory = memory};
    tables->logs = p, p += square;
    tables->products = p, p += square;
    tables->logs_t = p, p += square;
    tables->products_t = p, p += square;
    tables->sums = p, p += square;
    tables->state = p, p += rows;
    tables->scores = p, p += rows;
    tables->step = p;
    float top = -INFINITY;
    for (i64 i = 0; i < n * n; i++) top = chain->transitions[i] > top ? chain->transitions[i] : top;
    tables->top = top = isfinite(top) ? top : 0;
    for (i64 i = 0; i < n; i++) {
        for (i64 j = 0; j < wide; j++) tables->logs[i * wide + j] = tables->logs_t[i * wide + j] = -INFINITY;
        for (i64 j = 0; j < n; j++) {
            tables->logs[i * wide + j] = chain->transitions[i * n + j] - top;
            tables->logs_t[i * wide + j] = chain->transitions[j * n + i] - top;
        }
    }
    for (i64 i = 0; i < square; i++) {
        tables->products[i] = expf(tables->logs[i]);
        tables->products_t[i] = expf(tables->logs_t[i]);
    }
    return 0;
}

/* exp, but 0 below the smallest normal number, and so of -inf. */
INLINE vec exp_or_zero(vec x) { return (vec)((ints)exp_(x) & ~(x < -87.0f)); }

INLINE float max_of(const float *p, i64 wide) {
    vec m = load(p);
    for (i64 j = LANES; j < wide; j += LANES) {
        vec x = load(p + j);
        m = pick(x > m, x, m);
    }
    float top = m[0];
    for (int k = 1; k < LANES; k++) top = m[k] > top ? m[k] : top;
    return top;
}

INLINE float sum_of(vec v) {
    float sum = 0;
    for (int k = 0; k < LANES; k++) sum += v[k];
    return sum;
}

/* log(sum_i exp(scores[i] + logs[i])), in logarithms. */
static float add_logs(const float *scores, const float *logs, i64 n) {
    float top = -INFINITY, sum = 0;
    for (i64 i = 0; i < n; i++) top = scores[i] + logs[i] > top ? scores[i] + logs[i] : top;
    if (top == -INFINITY) return top;
    for (i64 i = 0; i < n; i++) sum += expf(scores[i] + logs[i] - top);
    return top + logf(sum);
}

/* step[j] = log(sum_i exp(scores[i]) products[i][j]); `state` holds the exponentials, and `columns` the logarithms of
 * products by column. Before taking logarithms, store the sums themselves if `kept` is given. */
INLINE void multiply(
    const Tables *tables, const float *state, const float *scores, const float *products, const float *columns,
    float *step, float *kept
) {
    i64 n = tables->classes, wide = tables->wide;
    for (i64 j = 0; j < wide; j += LANES) {
        vec even = {0}, odd = {0};
        i64 i = 0;
        for (; i + 1 < n; i += 2) {
            even = fma_(splat(state[i]), load(products + i * wide + j), even);
            odd = fma_(splat(state[i + 1]), load(products + (i + 1) * wide + j), odd);
        }
        if (i < n) even = fma_(splat(state[i]), load(products + i * wide + j), even);
        vec sum = even + odd;
        if (kept) store(kept + j, sum);
        ints tiny = sum < TINY;
        store(step + j, pick(tiny, splat(-INFINITY), log_(pick(tiny, splat(1.0f), sum))));
        int any = 0;
        for (int k = 0; k < LANES; k++) any |= tiny[k];
        if (any)
            for (i64 k = j; k < j + LANES && k < n; k++)
                if (tiny[k - j]) step[k] = add_logs(scores, columns + k * wide, n);
    }
}

/* Add numbers of a step to `step`, and -inf to the added places. */
INLINE void add_step(const Tables *tables, float *step, const float *numbers) {
    i64 n = tables->classes, j = 0;
    for (; j + LANES <= n; j += LANES) store(step + j, load(step + j) + load(numbers + j));
    for (; j < n; j++) step[j] += numbers[j];
    for (; j < tables->wide; j++) step[j] = -INFINITY;
}

/* Make `step` relative to its largest number, which is returned, and store its exponentials. */
INLINE float normalize(const Tables *tables, const float *step, float *scores, float *state) {
    float top = max_of(step, tables->wide);
    if (top == -INFINITY) top = 0;
    for (i64 j = 0; j < tables->wide; j += LANES) {
        vec x = load(step + j) - top;
        store(scores + j, x);
        store(state + j, exp_or_zero(x));
    }
    return top;
}

int NAME(pipeline_chain_sum_, SET)(const Chain *chain) {
    Tables tables;
    double *offsets = calloc((size_t)chain->rows + 1, sizeof(double));
    if (!offsets || make_tables(&tables, chain)) return free(offsets), 1;
    i64 n = tables.classes, wide = tables.wide;
    const float *emissions = chain->emissions;
    float *alphas = chain->alphas;
    for (i64 t = 0; t < chain->times; t++) {
        i64 running = chain->sizes[t], after = t + 1 < chain->times ? chain->sizes[t + 1] : 0;
        for (i64 r = 0; r < running; r++, emissions += n, alphas += n) {
            float *state = tables.state + r * wide, *scores = tables.scores + r * wide;
            if (t) {
                multiply(&tables, state, scores, tables.products, tables.logs_t, tables.step, 0);
                offsets[r] += tables.top;
            } else {
                memcpy(tables.step, chain->start, (size_t)n * sizeof(float));
            }
            add_step(&tables, tables.step, emissions);
            offsets[r] += normalize(&tables, tables.step, scores, state);
            memcpy(alphas, scores, (size_t)n * sizeof(float));
            if (r >= after) chain->totals[r] = (float)(offsets[r] + add_logs(scores, chain->end, n));
        }
    }
    free(tables.memory), free(offsets);
    return 0;
}

/* Expected transitions of one step, in logarithms: where the product of both sides is below TINY. */
static void count_in_logs(const Tables *tables, const Chain *chain, const float *alpha, const float *after, float weight) {
    i64 n = tables->classes, wide = tables->wide;
    float top = -INFINITY, sum = 0;
    for (i64 i = 0; i < n; i++)
        for (i64 j = 0; j < n; j++) {
            float x = alpha[i] + tables->logs[i * wide + j] + after[j];
            top = x > top ? x : top;
        }
    if (top == -INFINITY) return;
    for (i64 i = 0; i < n; i++)
        for (i64 j = 0; j < n; j++) sum += expf(alpha[i] + tables->logs[i * wide + j] + after[j] - top);
    for (i64 i = 0; i < n; i++)
        for (i64 j = 0; j < n; j++)
            chain->d_transitions[i * n + j] += weight / sum * expf(alpha[i] + tables->logs[i * wide + j] + after[j] - top);
}

int NAME(pipeline_chain_count_, SET)(const Chain *chain) {
    Tables tables;
    if (make_tables(&tables, chain)) return 1;
    i64 n = tables.classes, wide = tables.wide, place = chain->steps;
    float *before = calloc((size_t)wide * 3 + LANES, sizeof(float));
    if (!before) return free(tables.memory), 1;
    float *kept = before + wide, *both = kept + wide, *step = tables.step;
    memset(chain->d_transitions, 0, (size_t)(n * n) * sizeof(float));
    memset(chain->d_start, 0, (size_t)n * sizeof(float));
    memset(chain->d_end, 0, (size_t)n * sizeof(float));
    for (i64 t = chain->times - 1; t >= 0; t--) {
        i64 running = chain->sizes[t], after = t + 1 < chain->times ? chain->sizes[t + 1] : 0;
        place -= running;
        for (i64 r = 0; r < running; r++) {
            float *state = tables.state + r * wide, *scores = tables.scores + r * wide;
            const float *alpha = chain->alphas + (place + r) * n;
            float *gradient = chain->d_emissions + (place + r) * n;
            float weight = isfinite(chain->totals[r]) || isnan(chain->totals[r]) ? chain->weights[r] : 0;
            if (r < after) {
                multiply(&tables, state, scores, tables.products_t, tables.logs, step, kept);
                for (i64 j = n; j < wide; j++) before[j] = -INFINITY;
                memcpy(before, alpha, (size_t)n * sizeof(float));
                vec sum = {0};
                for (i64 j = 0; j < wide; j += LANES) {
                    vec p = exp_or_zero(load(before + j));
                    store(before + j, p);
                    sum = fma_(p, load(kept + j), sum);
                }
                float total = sum_of(sum);
                if (total < TINY) {
                    if (weight != 0) count_in_logs(&tables, chain, alpha, scores, weight);
                } else {
                    float share = weight / total;
                    for (i64 i = 0; i < n; i++) {
                        vec p = splat(before[i] * share);
                        float *sums = tables.sums + i * wide;
                        for (i64 j = 0; j < wide; j += LANES) store(sums + j, fma_(p, load(state + j), load(sums + j)));
                    }
                }
            } else {
                memcpy(step, chain->end, (size_t)n * sizeof(float));
            }
            /* The probability of a class is the softmax of the scores from both sides. */
            memcpy(both, step, (size_t)n * sizeof(float));
            add_step(&tables, both, alpha);
            float top = max_of(both, wide);
            if (top == -INFINITY) {
                memset(gradient, 0, (size_t)n * sizeof(float));
            } else {
                vec sum = {0};
                for (i64 j = 0; j < wide; j += LANES) {
                    vec p = exp_or_zero(load(both + j) - top);
                    store(both + j, p);
                    sum += p;
                }
                float share = weight / sum_of(sum);
                for (i64 j = 0; j < wide; j += LANES) store(both + j, load(both + j) * share);
                memcpy(gradient, both, (size_t)n * sizeof(float));
            }
            if (!t)
                for (i64 j = 0; j < n; j++) chain->d_start[j] += gradient[j];
            if (r >= after)
                for (i64 j = 0; j < n; j++) chain->d_end[j] += gradient[j];
            add_step(&tables, step, chain->emissions + (place + r) * n);
            normalize(&tables, step, scores, state);
        }
    }
    for (i64 i = 0; i < n; i++)
        for (i64 j = 0; j < n; j++)
            chain->d_transitions[i * n + j] += tables.sums[i * wide + j] * tables.products[i * wide + j];
    free(before), free(tables.memory);
    return 0;
}

int NAME(pipeline_chain_best_, SET)(const Chain *chain) {
    i64 n = chain->classes, wide = (n + LANES - 1) / LANES * LANES;
    /* Transitions, the scores of each row, those of a step, and for each step the best class before each class. */
    float *moves = malloc((size_t)(n * wide + chain->rows * wide + wide + LANES) * sizeof(float));
    int32_t *origins = malloc((size_t)(chain->steps * wide + LANES) * sizeof(int32_t));
    if (!moves || !origins) return free(moves), free(origins), 1;
    float *state = moves + n * wide, *step = state + chain->rows * wide;
    for (i64 i = 0; i < n; i++)
        for (i64 j = 0; j < wide; j++) moves[i * wide + j] = j < n ? chain->transitions[i * n + j] : -INFINITY;
    const float *emissions = chain->emissions;
    i64 place = 0;
    for (i64 t = 0; t < chain->times; t++) {
        i64 running = chain->sizes[t], after = t + 1 < chain->times ? chain->sizes[t + 1] : 0;
        for (i64 r = 0; r < running; r++, place++, emissions += n) {
            float *scores = state + r * wide;
            if (t) {
                for (i64 j = 0; j < wide; j += LANES) {
                    vec top = splat(scores[0]) + load(moves + j);
                    ints origin = {0};
                    for (i64 i = 1; i < n; i++) {
                        vec x = splat(scores[i]) + load(moves + i * wide + j);
                        ints more = x > top;
                        top = pick(more, x, top);
                        origin = (more & (int32_t)i) | (~more & origin);
                    }
                    store(step + j, top);
                    memcpy(origins + place * wide + j, &origin, sizeof(origin));
                }
            } else {
                memcpy(step, chain->start, (size_t)n * sizeof(float));
            }
            for (i64 j = 0; j < n; j++) scores[j] = step[j] + emissions[j];
            if (r >= after) {
                i64 best = 0;
                for (i64 j = 1; j < n; j++) best = scores[j] + chain->end[j] > scores[best] + chain->end[best] ? j : best;
                chain->best[place] = best;
            }
        }
    }
    for (i64 t = chain->times - 1; t > 0; t--) {
        i64 running = chain->sizes[t], earlier = chain->sizes[t - 1];
        place -= running;
        for (i64 r = 0; r < running; r++)
            chain->best[place - earlier + r] = origins[(place + r) * wide + chain->best[place + r]];
    }
    free(moves), free(origins);
    return 0;
}
#endif

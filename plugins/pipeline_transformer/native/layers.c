/* The parts of a transformer layer between its matrix products, each in one pass over the steps:
 *
 *     activate:   drop(f(values + bias))
 *     normalize:  sum = residual + drop(values + bias), and the layer norm of the sum
 *
 * and their gradients. Torch needs three to six passes for each. A dropped number is known by its 16 random bits, which
 * are kept for the gradients: no mask is written.
 *
 * Rows are shared out among threads in chunks of CHUNK rows. Gradients of biases and norms are sums over all rows: each
 * chunk has its own, and these are added in the order of the chunks. So no bit depends on the number of threads. */
#ifdef SET
#include "vectors.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GELU, RELU };
enum { ACTIVATE, ACTIVATE_BACK, NORMALIZE, NORMALIZE_BACK };

typedef struct { /* native_layers.py has the same list */
    i64 rows, columns;
    i64 activation;
    i64 least_dropped;     /* the smallest random number with which a number is dropped */
    double scale;          /* of kept numbers: 1 / (1 - p) */
    double eps;            /* is added to a variance */
    const float *values;   /* rows x columns, as are all others without a comment; may be null for `normalize` */
    const float *bias;     /* columns; may be null */
    const int16_t *bits;   /* rows x columns; null without dropout */
    const float *residual;
    const float *weight;   /* columns; null if only the sum is wanted */
    const float *shift;    /* columns; may be null */
    float *sums;           /* null without values: the residual is the sum */
    float *results;
    float *means, *scales; /* rows: of the norm, kept for the gradients */
    const float *d_results; /* may be null for `normalize`: then only the sum has a gradient */
    const float *d_sums;   /* may be null */
    float *d_values;       /* null if it is not wanted, or without dropout the same as `d_residual` */
    float *d_residual;
    float *d_bias, *d_weight, *d_shift; /* columns; may be null */
} Job;

#define CHUNK 64

typedef int16_t shorts __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

/* Prefetch what is needed AHEAD numbers later. The processor's own prefetching ends with each page of 4 KB. */
#define AHEAD 1024
INLINE void prefetch(const float *p) { __builtin_prefetch(p + AHEAD, 0, 3); }
INLINE void prefetch_write(const float *p) { __builtin_prefetch(p + AHEAD, 1, 3); }

/* `n` numbers, or a vector of them; the other places of a vector are zero. */
INLINE vec get(const float *p, i64 n) {
    if (n == LANES) return load(p);
    float part[LANES] = {0};
    for (i64 k = 0; k < n; k++) part[k] = p[k];
    return load(part);
}

INLINE void put(float *p, vec v, i64 n) {
    if (n == LANES) {
        store(p, v);
        return;
    }
    float part[LANES];
    store(part, v);
    for (i64 k = 0; k < n; k++) p[k] = part[k];
}

/* The numbers by which dropout multiplies: 0, or `scale`. */
INLINE vec get_mask(const Job *job, i64 at, i64 n) {
    ints bits;
    prefetch((const float *)(job->bits + at));
    if (n == LANES) {
        bits = __builtin_convertvector(*(const shorts *)(job->bits + at), ints);
    } else {
        bits = (ints){0};
        for (i64 k = 0; k < n; k++) bits[k] = job->bits[at + k];
    }
    return (vec)((ints)splat((float)job->scale) & (bits < (int32_t)job->least_dropped));
}

INLINE float add_up(vec v) {
    float sum = 0;
    for (int k = 0; k < LANES; k++) sum += v[k];
    return sum;
}

INLINE vec invert(vec x) {
#if defined(__AVX512F__) && LANES == 16
    /* A division takes 16 cycles. This estimate has 14 bits, and a step of Newton's method doubles them. */
    vec r = (vec)_mm512_rcp14_ps((__m512)x);
    return r * fma_(-x, r, splat(2.0f));
#else
    return 1.0f / x;
#endif
}

/* exp_ of vectors.h for numbers of at most 0, with fewer operations; 0 below the smallest normal number. */
INLINE vec exp_of_negative(vec x) {
    ints tiny = x < -87.0f;
    vec shifted = fma_(x, splat(1.44269504088896341f), splat(12582912.0f)), n = shifted - 12582912.0f;
    vec r = fma_(n, splat(2.12194440e-4f), fma_(n, splat(-0.693359375f), x));
    vec p = exp_near_0(r);
    /* The bits of 12582912 + n are those of 12582912, plus n. */
    ints e = ((ints)shifted - (0x4b400000 - 127)) << 23;
    return (vec)((ints)(p * (vec)e) & ~tiny);
}

/* The distribution function P of the standard normal distribution, and its density if it is wanted.
 *
 * For z = |x|, 1 - P(z) = exp(-z^2 / 2) t p(t) with t = 1 / (1 + 0.3 z) and a polynomial p, which was fitted to a
 * relative error of 1.3e-7 up to z = 13.5, where floats end. */
INLINE vec get_normal(vec x, vec *density) {
    vec z = (vec)((ints)x & 0x7fffffff);
    vec t = invert(fma_(z, splat(0.3f), splat(1.0f)));
    vec e = exp_of_negative(-0.5f * x * x);
    vec p = splat(0.035931912163592684f);
    p = fma_(p, t, splat(-0.1582766972725123f));
    p = fma_(p, t, splat(0.20820773150390687f));
    p = fma_(p, t, splat(-0.05539480989394617f));
    p = fma_(p, t, splat(0.129469670412881f));
    p = fma_(p, t, splat(0.0996373626348305f));
    p = fma_(p, t, splat(0.12079837747652791f));
    p = fma_(p, t, splat(0.11962638859056599f));
    p = p * t * e;
    if (density) *density = 0.3989422804014327f * e;
    return pick(x < 0.0f, p, 1.0f - p);
}

INLINE vec get_biased(const Job *job, const float *values, i64 j, i64 n) {
    vec x = get(values + j, n);
    return job->bias ? x + get(job->bias + j, n) : x;
}

INLINE void activate_part(const Job *job, i64 row, i64 j, i64 n, int activation) {
    i64 at = row * job->columns;
    prefetch(job->values + at + j);
    prefetch_write(job->results + at + j);
    vec x = get_biased(job, job->values + at, j, n), y;
    /* Comparisons that are false of a NaN keep it. */
    if (activation == GELU) y = x * get_normal(x, 0);
    else y = pick(x < 0.0f, splat(0.0f), x);
    if (job->bits) y *= get_mask(job, at + j, n);
    put(job->results + at + j, y, n);
}

INLINE void activate_back_part(const Job *job, i64 row, i64 j, i64 n, int activation, float *d_bias) {
    i64 at = row * job->columns;
    prefetch(job->values + at + j);
    prefetch_write(job->d_results + at + j);
    vec x = get_biased(job, job->values + at, j, n), g = get(job->d_results + at + j, n);
    if (job->bits) g *= get_mask(job, at + j, n);
    if (activation == GELU) {
        vec density, p = get_normal(x, &density);
        g *= fma_(x, density, p);
    } else {
        g = pick(x <= 0.0f, splat(0.0f), g);
    }
    put(job->d_values + at + j, g, n);
    if (d_bias) put(d_bias + j, get(d_bias + j, n) + g, n);
}

INLINE void add_part(const Job *job, i64 row, i64 j, i64 n, vec *total) {
    i64 at = row * job->columns + j;
    prefetch(job->residual + at);
    vec sum = get(job->residual + at, n);
    if (job->values) {
        prefetch(job->values + at);
        prefetch_write(job->sums + at);
        vec x = get_biased(job, job->values + row * job->columns, j, n);
        if (job->bits) x *= get_mask(job, at, n);
        sum += x;
        put(job->sums + at, sum, n);
    }
    *total += sum;
}

/* The places after the n-th count as zero. */
INLINE vec center(const float *p, vec mean, i64 n) {
    vec x = get(p, n) - mean;
    if (n < LANES)
        for (i64 k = n; k < LANES; k++) x[k] = 0;
    return x;
}

INLINE void normalize_part(const Job *job, const float *sums, float *results, i64 j, i64 n, vec mean, vec scale) {
    vec x = (get(sums + j, n) - mean) * scale;
    x = job->shift ? fma_(x, get(job->weight + j, n), get(job->shift + j, n)) : x * get(job->weight + j, n);
    prefetch_write(results + j);
    put(results + j, x, n);
}

/* For each vector of a row, then for the rest. */
#define EACH(call)                                              \
    do {                                                        \
        i64 j = 0;                                              \
        for (; j + LANES <= columns; j += LANES) {              \
            const i64 n = LANES;                                \
            call;                                               \
        }                                                       \
        if (j < columns) {                                      \
            const i64 n = columns - j;                          \
            call;                                               \
        }                                                       \
    } while (0)

static void normalize_row(const Job *job, i64 row) {
    i64 columns = job->columns;
    vec total = {0}, squares = {0};
    EACH(add_part(job, row, j, n, &total));
    if (!job->weight) return;
    const float *sums = (job->values ? job->sums : job->residual) + row * columns;
    float mean = add_up(total) / (float)columns;
    EACH(vec x = center(sums + j, splat(mean), n); squares = fma_(x, x, squares));
    float scale = 1.0f / sqrtf(add_up(squares) / (float)columns + (float)job->eps);
    job->means[row] = mean, job->scales[row] = scale;
    float *results = job->results + row * columns;
    EACH(normalize_part(job, sums, results, j, n, splat(mean), splat(scale)));
}

INLINE void sum_slopes_part(
    const Job *job, const float *sums, const float *d, i64 j, i64 n, vec mean, vec scale, vec *plain, vec *weighted,
    float *d_weight, float *d_shift
) {
    prefetch(d + j);
    prefetch(sums + j);
    vec g = get(d + j, n), x = center(sums + j, mean, n) * scale, own = g * get(job->weight + j, n);
    *plain += own;
    *weighted = fma_(own, x, *weighted);
    if (d_weight) put(d_weight + j, fma_(g, x, get(d_weight + j, n)), n);
    if (d_shift) put(d_shift + j, get(d_shift + j, n) + g, n);
}

INLINE void normalize_back_part(
    const Job *job, i64 row, const float *sums, i64 j, i64 n, vec mean, vec scale, vec plain, vec weighted, float *d_bias
) {
    i64 at = row * job->columns + j;
    vec g = {0};
    if (job->d_results) {
        vec x = (get(sums + j, n) - mean) * scale;
        g = scale * (get(job->d_results + at, n) * get(job->weight + j, n) - plain - x * weighted);
    }
    if (job->d_sums) prefetch(job->d_sums + at);
    prefetch_write(job->d_residual + at);
    if (job->d_sums) g += get(job->d_sums + at, n);
    put(job->d_residual + at, g, n);
    if (job->bits) g *= get_mask(job, at, n);
    if (job->d_values) put(job->d_values + at, g, n);
    if (d_bias) put(d_bias + j, get(d_bias + j, n) + g, n);
}

/* With z = (x - mean) scale and h = gradient * weight, dx = scale (h - mean(h) - z mean(h z)). */
static void normalize_back_row(const Job *job, i64 row, float *d_bias, float *d_weight, float *d_shift) {
    i64 columns = job->columns;
    const float *sums = job->sums + row * columns;
    vec plain = {0}, weighted = {0};
    float mean = 0, scale = 0;
    if (job->d_results) {
        const float *d = job->d_results + row * columns;
        mean = job->means[row], scale = job->scales[row];
        EACH(sum_slopes_part(job, sums, d, j, n, splat(mean), splat(scale), &plain, &weighted, d_weight, d_shift));
        plain = splat(add_up(plain) / (float)columns);
        weighted = splat(add_up(weighted) / (float)columns);
    }
    EACH(normalize_back_part(job, row, sums, j, n, splat(mean), splat(scale), plain, weighted, d_bias));
}

typedef struct {
    const Job *job;
    i64 task, chunks, next;
    float *sums; /* for each chunk, the sums of d_bias, d_weight and d_shift */
} Work;

static void run_chunks(void *given) {
    Work *work = given;
    const Job *job = work->job;
    i64 columns = job->columns;
    for (;;) {
        i64 chunk = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED);
        if (chunk >= work->chunks) return;
        i64 row = chunk * CHUNK, end = row + CHUNK < job->rows ? row + CHUNK : job->rows;
        float *own = work->sums + 3 * chunk * columns;
        float *d_bias = job->d_bias ? own : 0, *d_weight = job->d_weight ? own + columns : 0;
        float *d_shift = job->d_shift ? own + 2 * columns : 0;
        for (; row < end; row++) {
            if (work->task == NORMALIZE) normalize_row(job, row);
            else if (work->task == NORMALIZE_BACK) normalize_back_row(job, row, d_bias, d_weight, d_shift);
            else if (work->task == ACTIVATE && job->activation == GELU) EACH(activate_part(job, row, j, n, GELU));
            else if (work->task == ACTIVATE) EACH(activate_part(job, row, j, n, RELU));
            else if (job->activation == GELU) EACH(activate_back_part(job, row, j, n, GELU, d_bias));
            else EACH(activate_back_part(job, row, j, n, RELU, d_bias));
        }
    }
}

/* Do a task; return 1 if there is no memory for sums. */
int NAME(pipeline_layer_, SET)(const Job *job, i64 task, i64 threads, Team *team) {
    i64 columns = job->columns, chunks = (job->rows + CHUNK - 1) / CHUNK;
    float *of_job[] = {job->d_bias, job->d_weight, job->d_shift};
    Work work = {.job = job, .task = task, .chunks = chunks};
    if (of_job[0] || of_job[1] || of_job[2]) {
        work.sums = calloc((size_t)(3 * chunks * columns + 1), sizeof(float));
        if (!work.sums) return 1;
    }
    if (threads > 1) team(run_chunks, &work, (unsigned)threads, 0);
    else run_chunks(&work);
    for (int k = 0; k < 3; k++)
        if (of_job[k]) {
            memset(of_job[k], 0, (size_t)columns * sizeof(float));
            for (i64 chunk = 0; chunk < chunks; chunk++)
                for (i64 j = 0; j < columns; j++) of_job[k][j] += work.sums[(3 * chunk + k) * columns + j];
        }
    free(work.sums);
    return 0;
}
#endif

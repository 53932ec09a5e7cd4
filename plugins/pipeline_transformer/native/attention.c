/* Attention within rows of one length, with dropout of weights, and its gradients.
 *
 * The scores of QUERIES queries of a head are computed at a time, and stay in the cache between product, softmax and
 * product. Weights are not kept for the gradients, but computed again from the logarithms of their sums, as in Dao et
 * al. 2022, "FlashAttention". A task is a row and a head of keys, with all heads of queries that use it, so that no two
 * threads add to the same gradients, and no bit depends on the number of threads.
 *
 * The features of a head are a multiple of LANES. */
#ifdef SET
#include "vectors.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct { /* native_attention.py has the same list */
    i64 rows, length, heads, kv_heads, size;
    i64 causal;
    i64 least_dropped;      /* the smallest random number with which a weight is dropped */
    double scale;           /* of scores */
    double kept_scale;      /* of kept weights: 1 / (1 - p) */
    const float *projected; /* steps x (heads + 2 kv_heads) size: queries, keys and values side by side */
    const int16_t *bits;    /* rows x heads x queries x keys; null without dropout */
    float *contexts;        /* steps x heads size */
    float *sums;            /* rows x heads x queries: logarithms of the sums of exponentials */
    const float *d_contexts;
    float *d_projected;
} Job;

#define QUERIES 48
/* A tile of a product: its sums stay in registers, of which there are 32, or else 16. */
#define TILE 6
#if LANES == 16 || defined(__aarch64__)
#define WIDE 4
#else
#define WIDE 2
#endif

typedef int16_t shorts __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

/* A matrix: the number (i, j) is at `p[i * down + j * right]`. */
typedef struct {
    const float *p;
    i64 down, right;
} Matrix;

/* One tile of c = a b, or of c += a b. The rows of b and c are vectors. */
INLINE void multiply_tile(
    Matrix a, i64 depth, const float *b, i64 b_stride, float *c, i64 c_stride, int add, int rows, int vectors
) {
    vec sum[TILE][WIDE];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < vectors; j++) sum[i][j] = add ? load(c + i * c_stride + j * LANES) : (vec){0};
    for (i64 k = 0; k < depth; k++) {
        vec column[WIDE];
        UNROLL for (int j = 0; j < vectors; j++) column[j] = load(b + k * b_stride + j * LANES);
        UNROLL for (int i = 0; i < rows; i++) {
            vec x = splat(a.p[i * a.down + k * a.right]);
            UNROLL for (int j = 0; j < vectors; j++) sum[i][j] = fma_(x, column[j], sum[i][j]);
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < vectors; j++) store(c + i * c_stride + j * LANES, sum[i][j]);
}

INLINE void multiply_columns(
    Matrix a, i64 rows, i64 depth, const float *b, i64 b_stride, float *c, i64 c_stride, int add, int vectors
) {
    i64 i = 0;
    for (; i + TILE <= rows; i += TILE, a.p += TILE * a.down, c += TILE * c_stride)
        multiply_tile(a, depth, b, b_stride, c, c_stride, add, TILE, vectors);
    /* One tile for the rest: smaller ones would wait for their few sums. */
    switch (rows - i) {
        case 5: multiply_tile(a, depth, b, b_stride, c, c_stride, add, 5, vectors); break;
        case 4: multiply_tile(a, depth, b, b_stride, c, c_stride, add, 4, vectors); break;
        case 3: multiply_tile(a, depth, b, b_stride, c, c_stride, add, 3, vectors); break;
        case 2: multiply_tile(a, depth, b, b_stride, c, c_stride, add, 2, vectors); break;
        case 1: multiply_tile(a, depth, b, b_stride, c, c_stride, add, 1, vectors); break;
    }
}

/* c = a b, or c += a b, of rows x depth and depth x columns numbers; columns are a multiple of LANES. */
static void multiply(
    Matrix a, i64 rows, i64 depth, i64 columns, const float *b, i64 b_stride, float *c, i64 c_stride, int add
) {
    i64 j = 0;
    for (; j + WIDE * LANES <= columns; j += WIDE * LANES)
        multiply_columns(a, rows, depth, b + j, b_stride, c + j, c_stride, add, WIDE);
    switch ((columns - j) / LANES) {
        case 3: multiply_columns(a, rows, depth, b + j, b_stride, c + j, c_stride, add, 3 < WIDE ? 3 : 1); break;
        case 2: multiply_columns(a, rows, depth, b + j, b_stride, c + j, c_stride, add, 2 < WIDE ? 2 : 1); break;
        case 1: multiply_columns(a, rows, depth, b + j, b_stride, c + j, c_stride, add, 1); break;
    }
}

/* Write the transposed matrix of `rows` rows of `columns` numbers, and zeros up to `wide` columns. */
static void transpose(const float *p, i64 stride, i64 rows, i64 columns, float *out, i64 wide) {
    for (i64 j = 0; j < columns; j++) {
        if (rows < wide) store(out + (j + 1) * wide - LANES, (vec){0});
        for (i64 i = 0; i < rows; i++) out[j * wide + i] = p[i * stride + j];
    }
}

INLINE vec exp_or_zero(vec x) { return (vec)((ints)exp_(x) & ~(x < -87.0f)); }

INLINE float add_up(vec v) {
#if defined(__AVX512F__) && LANES == 16
    return _mm512_reduce_add_ps((__m512)v);
#else
    float sum = 0;
    for (int k = 0; k < LANES; k++) sum += v[k];
    return sum;
#endif
}

INLINE float find_largest(vec v) {
#if defined(__AVX512F__) && LANES == 16
    return _mm512_reduce_max_ps((__m512)v);
#else
    float top = v[0];
    for (int k = 1; k < LANES; k++) top = v[k] > top ? v[k] : top;
    return top;
#endif
}

/* The numbers by which dropout multiplies: 0, or `kept_scale`. Those of the last vector's other places are unused. */
INLINE vec get_mask(const Job *job, const int16_t *bits, i64 n) {
    shorts few = {0};
    if (n >= LANES) few = *(const shorts *)bits;
    else memcpy(&few, bits, (size_t)n * sizeof(int16_t));
    return (vec)((ints)splat((float)job->kept_scale) & (__builtin_convertvector(few, ints) < (int32_t)job->least_dropped));
}

/* What a task works on, and its memory. */
typedef struct {
    const Job *job;
    i64 wide;   /* keys, rounded up to whole vectors */
    i64 stride; /* of projected steps */
    float *keys, *values;      /* size x wide: transposed */
    float *weights, *d_scores; /* QUERIES x wide */
    i64 task, next; /* a row and a head of keys, and those of the next task: -1 after the last */
} Space;

static i64 count_space(const Job *job, i64 wide, int back) {
    return (back ? 2 : 1) * (job->size + QUERIES) * wide;
}

/* The keys that a query may attend to come first. */
INLINE i64 count_keys(const Job *job, i64 query) { return job->causal ? query + 1 : job->length; }

/* Replace scores by weights exp(score scale - sum); return the sum's logarithm, which is computed if `known` is null. */
static float exponentiate(const Job *job, float *scores, i64 keys, i64 wide, const float *known) {
    vec scale = splat((float)job->scale);
    for (i64 j = keys; j < wide; j++) scores[j] = -INFINITY;
    float log_sum;
    if (known) {
        log_sum = *known;
        for (i64 j = 0; j < wide; j += LANES)
            store(scores + j, exp_or_zero(fma_(load(scores + j), scale, splat(-log_sum))));
        return log_sum;
    }
    vec most = splat(-INFINITY), sum = {0};
    for (i64 j = 0; j < wide; j += LANES) {
        vec x = load(scores + j);
        most = pick(x > most, x, most);
    }
    float top = find_largest(most) * (float)job->scale;
    if (!(top > -INFINITY)) top = 0; /* all are NaN or -inf */
    for (i64 j = 0; j < wide; j += LANES) {
        vec x = exp_or_zero(fma_(load(scores + j), scale, splat(-top)));
        sum += x;
        store(scores + j, x);
    }
    float total = add_up(sum);
    vec share = splat(1.0f / total);
    for (i64 j = 0; j < wide; j += LANES) store(scores + j, load(scores + j) * share);
    return top + logf(total);
}

/* Prefetch numbers, 16 to a cache line. */
INLINE void prefetch(const float *p, i64 size) {
    for (i64 j = 0; j < size; j += 16) __builtin_prefetch(p + j, 0, 3);
}

INLINE void prefetch_write(const float *p, i64 size) {
    for (i64 j = 0; j < size; j += 16) __builtin_prefetch(p + j, 1, 3);
}

/* Prefetch one step of the next task: its memory lies in pieces, which the processor does not prefetch by itself. */
INLINE void prefetch_next(const Space *space, i64 time) {
    const Job *job = space->job;
    if (space->next < 0) return;
    i64 row = space->next / job->kv_heads, kv_head = space->next % job->kv_heads, size = job->size;
    i64 own = job->heads / job->kv_heads * size, step = row * job->length + time;
    i64 query_at = step * space->stride + kv_head * own, context_at = step * job->heads * size + kv_head * own;
    i64 key_at = step * space->stride + (job->heads + kv_head) * size, value_at = key_at + job->kv_heads * size;
    prefetch(job->projected + query_at, own);
    prefetch(job->projected + key_at, size);
    prefetch(job->projected + value_at, size);
    if (!job->d_projected) {
        prefetch_write(job->contexts + context_at, own);
        return;
    }
    prefetch(job->d_contexts + context_at, own);
    prefetch_write(job->d_projected + query_at, own);
    prefetch_write(job->d_projected + key_at, size);
    prefetch_write(job->d_projected + value_at, size);
}

static void attend(const Space *space) {
    const Job *job = space->job;
    i64 row = space->task / job->kv_heads, kv_head = space->task % job->kv_heads;
    i64 length = job->length, size = job->size, stride = space->stride, wide = space->wide;
    i64 sharing = job->heads / job->kv_heads, out = job->heads * size;
    const float *first = job->projected + row * length * stride;
    const float *keys = first + (job->heads + kv_head) * size, *values = keys + job->kv_heads * size;
    transpose(keys, stride, length, size, space->keys, wide);
    for (i64 head = kv_head * sharing; head < (kv_head + 1) * sharing; head++)
        for (i64 start = 0; start < length; start += QUERIES) {
            i64 count = length - start < QUERIES ? length - start : QUERIES;
            float *contexts = job->contexts + (row * length + start) * out + head * size;
            Matrix queries = {first + start * stride + head * size, stride, 1}, weights = {space->weights, wide, 1};
            multiply(queries, count, size, wide, space->keys, wide, space->weights, wide, 0);
            for (i64 i = 0; i < count; i++) {
                if (head == kv_head * sharing) prefetch_next(space, start + i);
                float *own = space->weights + i * wide;
                i64 at = (row * job->heads + head) * length + start + i;
                job->sums[at] = exponentiate(job, own, count_keys(job, start + i), wide, 0);
                if (job->bits)
                    for (i64 j = 0; j < length; j += LANES)
                        store(own + j, load(own + j) * get_mask(job, job->bits + at * length + j, length - j));
            }
            multiply(weights, count, length, size, values, stride, contexts, out, 0);
        }
}

/* With weights w, masks m and gradients g of the used weights w m: the gradient of a score is w (g m - sum(g m w)). */
static void differentiate(const Space *space) {
    const Job *job = space->job;
    i64 row = space->task / job->kv_heads, kv_head = space->task % job->kv_heads;
    i64 length = job->length, size = job->size, stride = space->stride, wide = space->wide;
    i64 sharing = job->heads / job->kv_heads, out = job->heads * size, step = row * length * stride;
    i64 key_at = step + (job->heads + kv_head) * size, value_at = key_at + job->kv_heads * size;
    const float *keys = job->projected + key_at, *values = job->projected + value_at;
    transpose(keys, stride, length, size, space->keys, wide);
    transpose(values, stride, length, size, space->values, wide);
    int add = 0;
    for (i64 head = kv_head * sharing; head < (kv_head + 1) * sharing; head++)
        for (i64 start = 0; start < length; start += QUERIES, add = 1) {
            i64 count = length - start < QUERIES ? length - start : QUERIES;
            i64 query_at = step + start * stride + head * size;
            const float *d_contexts = job->d_contexts + (row * length + start) * out + head * size;
            Matrix queries = {job->projected + query_at, stride, 1}, gradients = {d_contexts, out, 1};
            multiply(queries, count, size, wide, space->keys, wide, space->weights, wide, 0);
            multiply(gradients, count, size, wide, space->values, wide, space->d_scores, wide, 0);
            for (i64 i = 0; i < count; i++) {
                if (head == kv_head * sharing) prefetch_next(space, start + i);
                float *w = space->weights + i * wide, *d = space->d_scores + i * wide;
                i64 at = (row * job->heads + head) * length + start + i;
                exponentiate(job, w, count_keys(job, start + i), wide, job->sums + at);
                vec total = {0};
                for (i64 j = 0; j < wide; j += LANES) {
                    vec g = load(d + j);
                    if (job->bits && j < length) {
                        vec mask = get_mask(job, job->bits + at * length + j, length - j);
                        g *= mask;
                        store(d + j, g);
                    }
                    total = fma_(g, load(w + j), total);
                }
                vec mean = splat(add_up(total)), scale = splat((float)job->scale);
                for (i64 j = 0; j < wide; j += LANES) {
                    vec own = load(w + j);
                    store(d + j, own * (load(d + j) - mean) * scale);
                    if (job->bits && j < length)
                        store(w + j, own * get_mask(job, job->bits + at * length + j, length - j));
                }
            }
            Matrix d_scores = {space->d_scores, wide, 1}, d_turned = {space->d_scores, 1, wide};
            Matrix turned = {space->weights, 1, wide};
            multiply(d_scores, count, length, size, keys, stride, job->d_projected + query_at, stride, 0);
            multiply(d_turned, length, count, size, queries.p, stride, job->d_projected + key_at, stride, add);
            multiply(turned, length, count, size, d_contexts, out, job->d_projected + value_at, stride, add);
        }
}

typedef struct {
    const Job *job;
    i64 back, threads, next, failed;
} Work;

static void run_tasks(void *given) {
    Work *work = given;
    const Job *job = work->job;
    Space space = {.job = job, .wide = (job->length + LANES - 1) / LANES * LANES};
    space.stride = (job->heads + 2 * job->kv_heads) * job->size;
    char *memory = malloc((size_t)(count_space(job, space.wide, work->back != 0) + LANES) * sizeof(float));
    if (!memory) {
        __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    i64 square = job->size * space.wide, block = QUERIES * space.wide;
    space.keys = (float *)(((uintptr_t)memory + 4 * LANES - 1) / (4 * LANES) * (4 * LANES));
    space.weights = space.keys + square;
    space.values = space.weights + block;
    space.d_scores = space.values + square;
    for (;;) {
        i64 tasks = job->rows * job->kv_heads;
        space.task = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED);
        if (space.task >= tasks) break;
        /* Several threads take tasks in turn, usually. */
        space.next = space.task + work->threads < tasks ? space.task + work->threads : -1;
        (work->back ? differentiate : attend)(&space);
    }
    free(memory);
}

/* Compute contexts, or gradients with `back`; return 1 if there is no memory. */
int NAME(pipeline_attend_, SET)(const Job *job, i64 back, i64 threads, Team *team) {
    Work work = {.job = job, .back = back, .threads = threads > 1 ? threads : 1};
    if (threads > 1) team(run_tasks, &work, (unsigned)threads, 0);
    else run_tasks(&work);
    return (int)work.failed;
}
i64 NAME(pipeline_attend_lanes_, SET)(void) { return LANES; }
#endif

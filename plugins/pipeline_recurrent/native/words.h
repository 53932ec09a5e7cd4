/* Operands of products for inference: words of 32 bits, which are a float, two bfloat16 or four bytes. */
#ifndef PIPELINE_WORDS_H
#define PIPELINE_WORDS_H
#include "vectors.h"
#include <string.h>

enum { FLOAT, BF16, INT8 };

typedef int32_t loose_ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
INLINE ints load_ints(const int32_t *p) { return (ints)*(const loose_ints *)p; }
INLINE ints splat_int(int32_t x) { return x - (ints){0}; }
INLINE vec convert(ints x) { return __builtin_convertvector(x, vec); }

/* The lowest byte of each number. gcc's own conversion moves byte by byte, which takes ten times as long. */
typedef uint8_t bytes __attribute__((vector_size(LANES)));
INLINE bytes take_low_bytes(ints x) {
#if defined(__AVX512F__) && LANES == 16
    return (bytes)_mm512_cvtepi32_epi8((__m512i)x);
#else
    return __builtin_convertvector(x, bytes);
#endif
}

/* Sums of two products of 16-bit numbers. */
#if defined(__AVX512F__) && LANES == 16
INLINE ints madd(ints a, ints b) { return (ints)_mm512_madd_epi16((__m512i)a, (__m512i)b); }
#define HAS_MADD
#elif defined(__FMA__) && LANES == 8
INLINE ints madd(ints a, ints b) { return (ints)_mm256_madd_epi16((__m256i)a, (__m256i)b); }
#define HAS_MADD
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
    for (i64 k = 0; k < size; k += LANES) {
        vec sum = fma_(load(k < whole ? from + k : rest), splat(per_one), splat(12582912.0f + 128.0f));
        bytes low = take_low_bytes((ints)sum);
        memcpy((uint8_t *)words + k, &low, sizeof low);
    }
}

static void encode_row(i64 precision, const Operand *to, i64 row, const float *from, i64 size) {
    switch (precision) {
    case FLOAT: encode(FLOAT, to, row, from, size); break;
    case BF16: encode(BF16, to, row, from, size); break;
    default: encode(INT8, to, row, from, size);
    }
}
#endif

/* Products with AMX (Intel, from Sapphire Rapids on): one instruction multiplies 16 rows of 64 bytes by 16 columns.
 *
 * An operand is 32 numbers in bfloat16, added in float32; or 64 bytes times signed bytes, exact in int32. Reading
 * weights from the second-level cache takes as long as multiplying them by 16 rows, so that a product of 1 row costs the
 * same as one of 16. Two rows are faster than with vectors of AVX-512, 16 rows ten times; a lone row takes a tenth more.
 *
 * Sums in bfloat16 are added in another order than by AVX-512, but in the same order for every number of rows. So a
 * machine with AMX uses it for batches of any size: a row's bits must not depend on its batch.
 *
 * The functions are compiled for AMX one by one, in the set avx512bf16, and are called where `permit_amx` allows it. */
#ifndef PIPELINE_AMX_H
#define PIPELINE_AMX_H
#include "kernels.h"
#if defined(__AVX512BF16__) && defined(__x86_64__) && defined(__linux__)
/* gcc from 11 on, and clang from 12 on, which has one header for all of AMX. */
#if __has_include(<amxbf16intrin.h>) || __has_include(<amxintrin.h>)
#define HAS_AMX
#endif
#endif
enum { AMX_ROWS = 32 }; /* of one call */
#ifndef HAS_AMX
INLINE int permit_amx(void) { return 0; }
INLINE void begin_amx(void) {}
INLINE void end_amx(void) {}
#else
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AMX __attribute__((target("amx-tile,amx-bf16,amx-int8")))
enum { AMX_BYTES = 64, AMX_WORDS = 16 }; /* in a row of a register */

/* Return whether AMX can be used. Linux saves its large registers only in processes that have asked for it. */
static inline int permit_amx(void) {
    unsigned a, b, c, d, saved, high;
    const unsigned needed = 1u << 22 | 1u << 24 | 1u << 25; /* products of bfloat16, registers, products of bytes */
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & needed) != needed) return 0;
    __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    if ((saved & 3u << 17) != 3u << 17) return 0;
    return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0;
}

/* Each thread begins and ends its use. All registers are of full size: operands are filled up with zeros instead. */
AMX static inline void begin_amx(void) {
    static const struct {
        uint8_t palette, start, unused[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shapes = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&shapes);
}
AMX static inline void end_amx(void) { _tile_release(); }

typedef struct {
    const void *a;     /* up to 32 rows; places beyond an operand are zeros. 16 or 32 rows are read */
    i64 a_stride;      /* bytes */
    const void *panel; /* words x vecs x 16 words */
    i64 words;         /* of an operand: a multiple of 16 */
    const void *start; /* vecs x 16: what the sums begin with */
    void *to;          /* 16 or 32 rows of vecs x 16 sums */
    i64 to_stride;     /* bytes */
} AmxProduct;

#define ADD(c, a, b)                                                                                                  \
    do {                                                                                                              \
        if (bytes) _tile_dpbusd(c, a, b);                                                                             \
        else _tile_dpbf16ps(c, a, b);                                                                                 \
    } while (0)
/* 16 rows and up to four vectors of columns. Registers: 0 to 3 are sums, 4 rows, 6 and 7 columns. */
AMX INLINE void multiply_16(const int bytes, const int vecs, const AmxProduct *by) {
    const char *a = by->a, *b = by->panel, *start = by->start;
    const i64 line = AMX_BYTES * vecs;
    char *to = by->to;
    _tile_loadd(0, start, 0); /* the same in all rows */
    if (vecs > 1) _tile_loadd(1, start + 64, 0);
    if (vecs > 2) _tile_loadd(2, start + 128, 0);
    if (vecs > 3) _tile_loadd(3, start + 192, 0);
    for (i64 k = 0; k < by->words; k += AMX_WORDS, a += AMX_BYTES, b += AMX_WORDS * line) {
        _tile_loadd(4, a, by->a_stride);
        _tile_loadd(6, b, line);
        ADD(0, 4, 6);
        if (vecs > 1) {
            _tile_loadd(7, b + 64, line);
            ADD(1, 4, 7);
        }
        if (vecs > 2) {
            _tile_loadd(6, b + 128, line);
            ADD(2, 4, 6);
        }
        if (vecs > 3) {
            _tile_loadd(7, b + 192, line);
            ADD(3, 4, 7);
        }
    }
    _tile_stored(0, to, by->to_stride);
    if (vecs > 1) _tile_stored(1, to + 64, by->to_stride);
    if (vecs > 2) _tile_stored(2, to + 128, by->to_stride);
    if (vecs > 3) _tile_stored(3, to + 192, by->to_stride);
}
/* 32 rows and the vectors of columns `first` and, with `two`, the next: weights are read once for all rows. */
AMX INLINE void multiply_32(const int bytes, const int vecs, const int first, const AmxProduct *by) {
    const int two = first + 1 < vecs;
    const char *a = by->a, *b = (const char *)by->panel + 64 * first, *start = (const char *)by->start + 64 * first;
    const i64 line = AMX_BYTES * vecs, below = 16 * by->to_stride;
    char *to = (char *)by->to + 64 * first;
    _tile_loadd(0, start, 0);
    _tile_loadd(2, start, 0);
    if (two) {
        _tile_loadd(1, start + 64, 0);
        _tile_loadd(3, start + 64, 0);
    }
    for (i64 k = 0; k < by->words; k += AMX_WORDS, a += AMX_BYTES, b += AMX_WORDS * line) {
        _tile_loadd(4, a, by->a_stride);
        _tile_loadd(5, a + 16 * by->a_stride, by->a_stride);
        _tile_loadd(6, b, line);
        ADD(0, 4, 6);
        ADD(2, 5, 6);
        if (two) {
            _tile_loadd(7, b + 64, line);
            ADD(1, 4, 7);
            ADD(3, 5, 7);
        }
    }
    _tile_stored(0, to, by->to_stride);
    _tile_stored(2, to + below, by->to_stride);
    if (two) {
        _tile_stored(1, to + 64, by->to_stride);
        _tile_stored(3, to + below + 64, by->to_stride);
    }
}
#undef ADD

AMX INLINE void multiply_rows(const int bytes, const int vecs, i64 rows, const AmxProduct *by) {
    if (rows <= 16) {
        multiply_16(bytes, vecs, by);
        return;
    }
    multiply_32(bytes, vecs, 0, by);
    if (vecs > 2) multiply_32(bytes, vecs, 2, by);
}
/* Multiply up to 32 rows by a panel of 1 to 4 vectors of columns. */
AMX INLINE void multiply_vecs(const int bytes, i64 vecs, i64 rows, const AmxProduct *by) {
    /* Compilers do not know that the instructions read memory. */
    __asm__ volatile("" ::: "memory");
    switch (vecs) {
    case 1: multiply_rows(bytes, 1, rows, by); break;
    case 2: multiply_rows(bytes, 2, rows, by); break;
    case 3: multiply_rows(bytes, 3, rows, by); break;
    default: multiply_rows(bytes, 4, rows, by);
    }
    __asm__ volatile("" ::: "memory");
}
AMX static inline void multiply_bfloat16(i64 vecs, i64 rows, const AmxProduct *by) { multiply_vecs(0, vecs, rows, by); }
#endif
#endif

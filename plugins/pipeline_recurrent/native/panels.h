/* Weights, rearranged so that a product reads them in order. */
#ifndef PIPELINE_PANELS_H
#define PIPELINE_PANELS_H
#include "numbers.h"
#include <string.h>

/* Panel `at` of the forward pass of gated cells: depth x gates x LANES, for the hidden units from at*LANES on; with LOW
 * the pairs of depth innermost. All gates of a unit are in one panel, so that a tile can compute its new state. */
static void pack_units(const Job *job, i64 at) {
    i64 gates = GATES[job->cell], block = gates * LANES, deep = fill_up(job, job->depth);
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
    const i64 total = transposed ? depth : GATES[job->cell] * job->wide, deep = fill_up(job, total);
    i64 vecs = job->wide - first < 4 * LANES ? job->wide - first : 4 * LANES, real = left < vecs ? left : vecs;
    i64 right = transposed ? depth : 1, down = transposed ? 1 : depth;
    num *to = job->panels + deep * first;
    for (i64 k = 0; k < deep; k += PAIR, to += vecs * PAIR) {
        i64 unit = k % job->wide, rows = k >= total ? 0 : depth - unit < PAIR ? depth - unit : PAIR;
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
#endif

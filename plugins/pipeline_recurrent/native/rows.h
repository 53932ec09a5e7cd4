/* What the kernels of recurrent layers share: the kinds of cells, and how rows are shared out among threads. */
#ifndef PIPELINE_ROWS_H
#define PIPELINE_ROWS_H
#include "kernels.h"

enum { LSTM, GRU, TANH, RELU };

/* Number of rows that run at a time; `alive` is null if all `rows` have the same length. */
INLINE i64 count_running(const i64 *alive, i64 rows, i64 time) { return alive ? alive[time] : rows; }

/* The first row of chunk `part`, found by bisection so that all chunks have about the same number of steps. */
INLINE i64 chunk_start(const i64 *alive, i64 rows, i64 times, i64 steps, i64 part, i64 parts) {
    i64 low = 0, high = rows;
    if (parts == 1) return part * rows;
    while (low < high) {
        i64 middle = (low + high) / 2, before = 0;
        for (i64 t = 0; t < times; t++) {
            i64 running = count_running(alive, rows, t);
            before += running < middle ? running : middle;
        }
        if (before * parts < steps * part) low = middle + 1;
        else high = middle;
    }
    return low;
}
#endif

/* The work of a call: tensors and sizes of one direction of one layer. kernels.c explains the terms. */
#ifndef PIPELINE_JOB_H
#define PIPELINE_JOB_H
#include "rows.h"

#ifdef LOW
typedef uint16_t num; /* a bfloat16 */
#else
typedef float num;
#endif

typedef struct { /* one direction of one layer; library.py has the same list */
    i64 cell, reverse, depth, wide, times, rows, steps;
    i64 keep;                /* forward: a backward pass will follow; backward: initial states need gradients */
    i64 gate_stride;         /* numbers from the gates of one step to those of the next */
    i64 state_stride;        /* the same for states, where the directions lie side by side */
    i64 output_stride;       /* the same for `output` and `d_states`, of `depth` numbers per direction */
    const i64 *alive;        /* times: number of running rows */
    const num *weight;       /* gates*depth x depth: torch's weight_hh */
    num *panels;             /* scratch for the rearranged weights; Layout.count_panel_numbers has the size */
    num *operands;           /* scratch: chunks x 32 x numbers of an operand, filled up; or null, for products without AMX */
    const float *bias;       /* GRU: wide: the new gate's recurrent bias. LOW: one for each gate, in the gates' order */
    num *gates;              /* steps: in, the input product, with LOW without biases; out, with keep, the gates */
    float *cells;            /* LSTM with keep: steps x wide */
    num *states;             /* steps, by state_stride */
    float *output;           /* steps, by output_stride: the states, with LOW before they are rounded; or null */
    const num *h0;           /* rows x wide: initial states */
    const float *c0;
    float *h1, *c1;          /* rows x wide: final states; copies of h0, c0 on entry */
    const float *d_states;   /* backward: steps, by output_stride */
    num *d_gates;            /* backward: steps, by gate_stride; may be the gates, which are read first */
    float *d_h, *d_c;        /* backward: rows x wide: in, gradients of final states; out, of initial states */
    num *before;             /* backward: steps x depth: the state before each step, for the weight gradients */
    float *d_bias;           /* backward: rows x gate_stride: zeros; out, the sums of each row's d_gates, not rounded */
} Job;
#endif

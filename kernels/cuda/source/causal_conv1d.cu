// Causal depthwise convolution over time with bias and SiLU, channel-last, forward and backward.
//
//     v[t] = bias + sum_k weight[k] * x[t - (WIDTH - 1) + k]        y = silu(v)
//
// A thread takes PACK neighbouring channels of one sequence over SEGMENT steps, with the window in registers; rows are
// read and written in whole packs. Before time zero stands `initial`, or zero. Bound by memory.
//
// Compile-time: WIDTH, PACK, SEGMENT, ELEMENT_BF16.
#include "element.cuh"

typedef Pack<Element, PACK> Elements;

struct ConvParams {
    const Element *x, *d_y;        // d_y (batch, length, channels), backward only
    const float *weight, *bias;    // (channels, WIDTH), (channels)
    const float *initial;          // (batch, channels, WIDTH - 1), oldest first, or null
    Element *y;                    // forward: (batch, length, channels)
    Element *d_x;                  // backward: strided
    float *partial;                // backward: (batch * segments, WIDTH + 1, channels): weight's gradients, then bias's
    long long x_batch, x_row, d_x_batch, d_x_row, length;
    int batch, channels, segments, padding;
};
static_assert(sizeof(ConvParams) == PARAMS_BYTES, "differs from the caller's");

struct Work {  // of this thread
    int first, segment, batch;  // first channel
    bool valid;

    __device__ __forceinline__ Work(const ConvParams& p) {
        int packs = p.channels / PACK;
        long long item = (long long)blockIdx.x * blockDim.x + threadIdx.x;
        first = (int)(item % packs) * PACK;
        item /= packs;
        segment = (int)(item % p.segments);
        item /= p.segments;
        batch = (int)item;
        valid = item < p.batch;
    }
};

__device__ __forceinline__ void load_row(float (&to)[PACK], const ConvParams& p, const Work& at, long long t) {
    if (t >= 0 && t < p.length) {
        Elements v = *reinterpret_cast<const Elements*>(p.x + at.batch * p.x_batch + t * p.x_row + at.first);
#pragma unroll
        for (int i = 0; i < PACK; ++i) to[i] = to_float(v.at[i]);
    } else {
#pragma unroll
        for (int i = 0; i < PACK; ++i) {
            to[i] = t < 0 && p.initial
                ? p.initial[((long long)at.batch * p.channels + at.first + i) * (WIDTH - 1) + WIDTH - 1 + t] : 0.0f;
        }
    }
}

struct Filter {
    float weight[WIDTH][PACK], bias[PACK];

    __device__ __forceinline__ Filter(const ConvParams& p, const Work& at) {
#pragma unroll
        for (int i = 0; i < PACK; ++i) {
            bias[i] = p.bias[at.first + i];
#pragma unroll
            for (int k = 0; k < WIDTH; ++k) weight[k][i] = p.weight[(at.first + i) * WIDTH + k];
        }
    }
};

extern "C" __global__ void __launch_bounds__(128) conv_forward(const __grid_constant__ ConvParams p) {
    const Work at(p);
    if (!at.valid) return;
    const Filter filter(p, at);
    const long long start = (long long)at.segment * SEGMENT;
    float window[WIDTH][PACK];  // the last WIDTH rows, oldest first
#pragma unroll
    for (int k = 1; k < WIDTH; ++k) load_row(window[k], p, at, start - WIDTH + k);
#pragma unroll 4
    for (int i = 0; i < SEGMENT; ++i) {
        long long t = start + i;
        if (t >= p.length) break;
#pragma unroll
        for (int k = 0; k < WIDTH - 1; ++k)
#pragma unroll
            for (int c = 0; c < PACK; ++c) window[k][c] = window[k + 1][c];
        load_row(window[WIDTH - 1], p, at, t);
        Elements y;
#pragma unroll
        for (int c = 0; c < PACK; ++c) {
            float v = filter.bias[c];
#pragma unroll
            for (int k = 0; k < WIDTH; ++k) v += filter.weight[k][c] * window[k][c];
            assign(y.at[c], v * sigmoid(v));
        }
        *reinterpret_cast<Elements*>(p.y + (at.batch * p.length + t) * p.channels + at.first) = y;
    }
}

extern "C" __global__ void __launch_bounds__(128) conv_backward(const __grid_constant__ ConvParams p) {
    const Work at(p);
    if (!at.valid) return;
    const Filter filter(p, at);
    const long long start = (long long)at.segment * SEGMENT;
    float window[WIDTH][PACK];             // rows of x up to t
    float d_v[WIDTH][PACK] = {};           // gradients of v up to t
    float d_weight[WIDTH][PACK] = {}, d_bias[PACK] = {};
#pragma unroll
    for (int k = 1; k < WIDTH; ++k) load_row(window[k], p, at, start - WIDTH + k);
    // The last WIDTH - 1 steps belong to the next segment and only complete this one's gradient of x.
#pragma unroll 4
    for (int i = 0; i < SEGMENT + WIDTH - 1; ++i) {
        long long t = start + i;
#pragma unroll
        for (int k = 0; k < WIDTH - 1; ++k)
#pragma unroll
            for (int c = 0; c < PACK; ++c) {
                window[k][c] = window[k + 1][c];
                d_v[k][c] = d_v[k + 1][c];
            }
        if (t < p.length) {
            load_row(window[WIDTH - 1], p, at, t);
            Elements d_y = *reinterpret_cast<const Elements*>(p.d_y + (at.batch * p.length + t) * p.channels + at.first);
#pragma unroll
            for (int c = 0; c < PACK; ++c) {
                float v = filter.bias[c];
#pragma unroll
                for (int k = 0; k < WIDTH; ++k) v += filter.weight[k][c] * window[k][c];
                float g = sigmoid(v);
                d_v[WIDTH - 1][c] = to_float(d_y.at[c]) * g * (1.0f + v * (1.0f - g));
            }
        } else {
#pragma unroll
            for (int c = 0; c < PACK; ++c) d_v[WIDTH - 1][c] = 0.0f;
        }
        if (i < SEGMENT) {
#pragma unroll
            for (int c = 0; c < PACK; ++c) {
                d_bias[c] += d_v[WIDTH - 1][c];
#pragma unroll
                for (int k = 0; k < WIDTH; ++k) d_weight[k][c] += d_v[WIDTH - 1][c] * window[k][c];
            }
        }
        long long done = t - (WIDTH - 1);  // v[done .. t] are all that x[done] enters
        if (i >= WIDTH - 1 && done < p.length) {
            Elements d_x;
#pragma unroll
            for (int c = 0; c < PACK; ++c) {
                float sum = 0.0f;
#pragma unroll
                for (int k = 0; k < WIDTH; ++k) sum += filter.weight[k][c] * d_v[WIDTH - 1 - k][c];
                assign(d_x.at[c], sum);
            }
            *reinterpret_cast<Elements*>(p.d_x + at.batch * p.d_x_batch + done * p.d_x_row + at.first) = d_x;
        }
    }
    float* to = p.partial + ((long long)at.batch * p.segments + at.segment) * (WIDTH + 1) * p.channels + at.first;
#pragma unroll
    for (int c = 0; c < PACK; ++c) {
#pragma unroll
        for (int k = 0; k < WIDTH; ++k) to[(long long)k * p.channels + c] = d_weight[k][c];
        to[(long long)WIDTH * p.channels + c] = d_bias[c];
    }
}

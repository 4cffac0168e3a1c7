// Selective scan (Gu & Dao 2023, algorithm 2) with elapsed time, forward and backward, channel-last.
//
//     dt = softplus(dt_raw + dt_bias) * ratio              dt_in = softplus(dt_raw + dt_bias) * min(ratio, max_hold)
//     h[n] = exp(dt * A[n]) * h[n] + dt_in * u * B[n]      y = sum_n h[n] * C[n] + D * u      out = y * silu(z)
//
// A block owns 16 channels of one sequence, with all their states, and walks through time in tiles of TILE steps. A
// thread holds 2 channels x KEEP states in registers; a warp holds 16 channels x 4 KEEP states:
//
//     lane = 8 * state_lane + channel_lane
//
// Sums over states (y, and the gradients of dt and dt_in * u) run over the 4 state lanes by exchange, then over the
// warps through shared memory; sums over channels (the gradients of B and C) over the 8 channel lanes by exchange, then
// over the blocks in global memory. An exchange that adds k values over two lanes leaves k / 2 with each: where a
// thread's own order of channels or states is turned by its lane number, which ones to send needs no selection.
//
// The forward pass stores the state before each tile. The backward pass starts from it: it advances in sub-tiles of
// STEPS steps, noting the state before each in shared memory, then takes the sub-tiles in reverse, recomputing the
// states and decays of one in registers.
//
// Compile-time: D_STATE (multiple of 4 KEEP), KEEP (2 or 4), TILE, STEPS (even), ELEMENT_BF16, ALIGNED (every row allows
// 16-byte copies), FORWARD_BLOCKS and BACKWARD_BLOCKS (per multiprocessor, at least).
#include "element.cuh"

constexpr int CHANNELS = 16;
constexpr int HALF = KEEP / 2;
constexpr int WARPS = D_STATE / (4 * KEEP);
constexpr int THREADS = 32 * WARPS;
constexpr int SUBTILES = TILE / STEPS;
constexpr int VECTOR = 16 / (int)sizeof(Element);   // elements of a 16-byte copy
constexpr int ROW = 2 * D_STATE + 16;               // gradients of B and C at one step, padded against bank conflicts
static_assert(D_STATE % (4 * KEEP) == 0 && TILE % STEPS == 0 && STEPS % 2 == 0, "sizes must divide");

struct Strides {  // in elements; the last dimension is dense
    long long batch, row;
};

struct ScanInputs {
    const Element *u, *dt_raw, *z, *B, *C;  // z may be null: no gate
    const float *dt_bias, *ratio, *A, *D, *initial;  // initial may be null: zero
    Strides u_at, dt_raw_at, z_at, B_at, C_at;
    long long length;
    int channels, groups, tiles;
    float max_hold;
};

struct ForwardParams {
    ScanInputs in;
    Element *out, *y;     // (batch, length, channels); y, before the gate, may be null
    float *checkpoints;   // (batch, tiles, channels, d_state) state before each tile, or null
    float *last;          // (batch, channels, d_state)
};

struct BackwardParams {
    ScanInputs in;
    const Element *d_out, *y;     // (batch, length, channels)
    const float *checkpoints;
    const float *d_last;          // (batch, channels, d_state) or null
    Element *d_u, *d_dt_raw;      // (batch, length, channels)
    Element *d_z;                 // strided, or null
    Strides d_z_at;
    float *d_B, *d_C;             // (batch, length, d_state) zeroed and added to; or (groups, batch, length, d_state)
    float *d_A, *d_D, *d_dt_bias; // (batch, channels, d_state), (batch, channels), (batch, channels)
    float *d_initial;             // (batch, channels, d_state)
    long long group_stride;       // of d_B and d_C: 0 to add with atomics, else floats between groups
};

// What is copied from global memory before a tile is prepared; `d_out` and `y` by the backward pass only.
template <int ROWS_OF_CHANNELS>
struct alignas(16) RawTile {
    Element per_channel[ROWS_OF_CHANNELS][TILE][CHANNELS];
    Element B[TILE][D_STATE];
    Element C[TILE][D_STATE];
    float ratio[TILE];
};

struct Place {  // of this thread
    int warp, channel_lane, state_lane, batch, first_channel;

    __device__ __forceinline__ Place(int groups) {
        int lane = threadIdx.x % 32;
        warp = threadIdx.x / 32;
        channel_lane = lane % 8;
        state_lane = lane / 8;
        batch = blockIdx.x / groups;
        first_channel = blockIdx.x % groups * CHANNELS;
    }
    // Channel of the tile that this thread's j-th is; turned by the state lane.
    __device__ __forceinline__ int channel(int j) const { return 2 * channel_lane + (j ^ (state_lane & 1)); }
    __device__ __forceinline__ int first_state() const { return (4 * warp + state_lane) * KEEP; }
};

template <int COLUMNS>
__device__ __forceinline__ void copy_rows(Element (*to)[COLUMNS], const Element* from, long long row_stride,
                                          long long rows, int columns) {
#if ALIGNED
    constexpr int COPIES = COLUMNS / VECTOR;
#pragma unroll 2
    for (int v = threadIdx.x; v < TILE * COPIES; v += THREADS) {
        int row = v / COPIES, column = v % COPIES * VECTOR;
        bool valid = row < rows && column < columns;
        copy_async_16(&to[row][column], valid ? from + row * row_stride + column : from, valid);
    }
#else
#pragma unroll 1
    for (int v = threadIdx.x; v < TILE * COLUMNS; v += THREADS) {
        int row = v / COLUMNS, column = v % COLUMNS;
        Element zero = {};
        to[row][column] = row < rows && column < columns ? from[row * row_stride + column] : zero;
    }
#endif
}

template <int K>
__device__ __forceinline__ void copy_inputs(RawTile<K>& raw, const ScanInputs& in, const Place& at, int tile) {
    long long t = (long long)tile * TILE;
    long long rows = in.length - t;
    int columns = in.channels - at.first_channel;
    auto channel_rows = [&](int k, const Element* base, Strides s) {
        if (base) copy_rows<CHANNELS>(raw.per_channel[k], base + at.batch * s.batch + t * s.row + at.first_channel, s.row,
                                      rows, columns);
    };
    channel_rows(0, in.u, in.u_at);
    channel_rows(1, in.dt_raw, in.dt_raw_at);
    channel_rows(2, in.z, in.z_at);
    copy_rows<D_STATE>(raw.B, in.B + at.batch * in.B_at.batch + t * in.B_at.row, in.B_at.row, rows, D_STATE);
    copy_rows<D_STATE>(raw.C, in.C + at.batch * in.C_at.batch + t * in.C_at.row, in.C_at.row, rows, D_STATE);
    const float* ratio = in.ratio + at.batch * in.length + t;
#pragma unroll 1
    for (int v = threadIdx.x; v < TILE; v += THREADS) copy_async_4(&raw.ratio[v], v < rows ? ratio + v : ratio, v < rows);
}

__device__ __forceinline__ void widen(float (*to)[D_STATE], const Element (*from)[D_STATE]) {
#pragma unroll 2
    for (int v = threadIdx.x; v < TILE * D_STATE / 4; v += THREADS) {
        int row = v / (D_STATE / 4), column = v % (D_STATE / 4) * 4;
        auto narrow = *reinterpret_cast<const Pack<Element, 4>*>(&from[row][column]);
        Pack<float, 4> wide;
        for (int i = 0; i < 4; ++i) wide.at[i] = to_float(narrow.at[i]);
        *reinterpret_cast<Pack<float, 4>*>(&to[row][column]) = wide;
    }
}

// ---------------------------------------------------------------------------------------------------- forward

struct ForwardShared {
    RawTile<3> raw;
    alignas(16) float B[TILE][D_STATE];
    alignas(16) float C[TILE][D_STATE];
    Pack<float, 2> steps[TILE][CHANNELS];  // dt, dt_in * u
    Pack<float, 2> gate[TILE][CHANNELS];   // D * u, silu(z)
    float sums[WARPS][TILE][CHANNELS];     // of h * C over the states of a warp
};
static_assert(sizeof(ForwardShared) == FORWARD_SHARED && sizeof(ForwardParams) == FORWARD_PARAMS, "differs from the caller's");

__device__ __forceinline__ void finish_forward(ForwardShared& s, const ForwardParams& p, const Place& at, int tile, int i) {
    int row = i / CHANNELS, c = i % CHANNELS;
    long long t = (long long)tile * TILE + row;
    if (t >= p.in.length || at.first_channel + c >= p.in.channels) return;
    float sum = 0.0f;
    for (int w = 0; w < WARPS; ++w) sum += s.sums[w][row][c];
    Pack<float, 2> gate = s.gate[row][c];
    sum += gate.at[0];
    long long index = (at.batch * p.in.length + t) * p.in.channels + at.first_channel + c;
    if (p.y) assign(p.y[index], sum);
    assign(p.out[index], sum * gate.at[1]);
}

extern "C" __global__ void __launch_bounds__(THREADS, FORWARD_BLOCKS) scan_forward(const __grid_constant__ ForwardParams p) {
    extern __shared__ __align__(16) unsigned char memory[];
    ForwardShared& s = *reinterpret_cast<ForwardShared*>(memory);
    const Place at(p.in.groups);
    const int state = at.first_state();

    float h[2][KEEP], A[2][KEEP];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        int c = at.first_channel + at.channel(j);
#pragma unroll
        for (int k = 0; k < KEEP; ++k) {
            bool own = c < p.in.channels;
            A[j][k] = own ? p.in.A[c * D_STATE + state + k] * LOG2_E : 0.0f;
            long long index = ((long long)at.batch * p.in.channels + c) * D_STATE + state + k;
            h[j][k] = own && p.in.initial ? p.in.initial[index] : 0.0f;
        }
    }
    const int c_own = threadIdx.x % CHANNELS;  // the channel that this thread prepares and finishes
    const bool c_valid = at.first_channel + c_own < p.in.channels;
    const float bias = c_valid ? p.in.dt_bias[at.first_channel + c_own] : 0.0f;
    const float skip = c_valid ? p.in.D[at.first_channel + c_own] : 0.0f;

    copy_inputs(s.raw, p.in, at, 0);
#pragma unroll 1
    for (int tile = 0; tile < p.in.tiles; ++tile) {
        wait_for_copies();
        __syncthreads();  // the raw tile is there; the sums of the tile before are complete
#pragma unroll 2
        for (int i = threadIdx.x; i < TILE * CHANNELS; i += THREADS) {
            if (tile > 0) finish_forward(s, p, at, tile - 1, i);
            int row = i / CHANNELS;
            float u = to_float(s.raw.per_channel[0][row][c_own]);
            float step = softplus(to_float(s.raw.per_channel[1][row][c_own]) + bias);
            float ratio = s.raw.ratio[row];
            float z = p.in.z ? to_float(s.raw.per_channel[2][row][c_own]) : 0.0f;
            s.steps[row][c_own] = {step * ratio, step * fminf(ratio, p.in.max_hold) * u};
            s.gate[row][c_own] = {skip * u, p.in.z ? z * sigmoid(z) : 1.0f};
        }
        widen(s.B, s.raw.B);
        widen(s.C, s.raw.C);
        __syncthreads();  // prepared; the raw tile may be overwritten
        if (tile + 1 < p.in.tiles) copy_inputs(s.raw, p.in, at, tile + 1);

        if (p.checkpoints) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                int c = at.first_channel + at.channel(j);
                if (c >= p.in.channels) continue;
                long long index = (((long long)at.batch * p.in.tiles + tile) * p.in.channels + c) * D_STATE + state;
                Pack<float, KEEP> v;
#pragma unroll
                for (int k = 0; k < KEEP; ++k) v.at[k] = h[j][k];
                *reinterpret_cast<Pack<float, KEEP>*>(p.checkpoints + index) = v;
            }
        }
        const int upper = at.state_lane >> 1;
        // Sums are stored behind a group of steps: the compiler moves no load across a store.
#pragma unroll 1
        for (int first = 0; first < TILE; first += STEPS) {
            float sums[STEPS / 2];
#pragma unroll
            for (int i = 0; i < STEPS; i += 2) {
                float pair[2];
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int t = first + i + half;
                    auto B = *reinterpret_cast<const Pack<float, KEEP>*>(&s.B[t][state]);
                    auto C = *reinterpret_cast<const Pack<float, KEEP>*>(&s.C[t][state]);
                    float y[2];
#pragma unroll
                    for (int j = 0; j < 2; ++j) {
                        Pack<float, 2> step = s.steps[t][at.channel(j)];
                        y[j] = 0.0f;
#pragma unroll
                        for (int k = 0; k < KEEP; ++k) {
                            h[j][k] = exp2_fast(step.at[0] * A[j][k]) * h[j][k] + step.at[1] * B.at[k];
                            y[j] += h[j][k] * C.at[k];
                        }
                    }
                    pair[half] = y[0] + exchange(y[1], 8);
                }
                sums[i / 2] = (upper ? pair[1] : pair[0]) + exchange(upper ? pair[0] : pair[1], 16);
            }
#pragma unroll
            for (int i = 0; i < STEPS; i += 2) s.sums[at.warp][first + i + upper][at.channel(0)] = sums[i / 2];
        }
    }
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < TILE * CHANNELS; i += THREADS) finish_forward(s, p, at, p.in.tiles - 1, i);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        int c = at.first_channel + at.channel(j);
        if (c >= p.in.channels) continue;
#pragma unroll
        for (int k = 0; k < KEEP; ++k) {
            p.last[((long long)at.batch * p.in.channels + c) * D_STATE + state + k] = h[j][k];
        }
    }
}

// --------------------------------------------------------------------------------------------------- backward

struct BackwardShared {
    RawTile<5> raw;  // u, dt_raw, z, d_out, y
    alignas(16) float B[TILE][D_STATE];
    alignas(16) float C[TILE][D_STATE];
    Pack<float, 4> steps[TILE][CHANNELS];   // dt, dt_in * u, d_y, unused
    Pack<float, 2> forward_steps[TILE][CHANNELS];  // dt, dt_in * u again, without bank conflicts
    Pack<float, 4> factors[TILE][CHANNELS];  // what turns the two sums into the gradients of u and dt_raw
    float sums[WARPS][TILE][2][CHANNELS];    // over a warp's states: g * B, and g * decay * h_before * A
    alignas(16) float d_BC[TILE][ROW];       // [warp][B or C][state of the warp]
    float states[SUBTILES > 1 ? SUBTILES - 1 : 1][2 * KEEP][THREADS];  // before each sub-tile, each thread its own
};
static_assert(sizeof(BackwardShared) == BACKWARD_SHARED && sizeof(BackwardParams) == BACKWARD_PARAMS, "differs from the caller's");

__device__ __forceinline__ void copy_gradients(BackwardShared& s, const BackwardParams& p, const Place& at, int tile) {
    long long t = (long long)tile * TILE;
    long long base = (at.batch * p.in.length + t) * p.in.channels + at.first_channel;
    long long rows = p.in.length - t;
    int columns = p.in.channels - at.first_channel;
    copy_rows<CHANNELS>(s.raw.per_channel[3], p.d_out + base, p.in.channels, rows, columns);
    if (p.in.z) copy_rows<CHANNELS>(s.raw.per_channel[4], p.y + base, p.in.channels, rows, columns);
}

// Gradients of u and dt_raw from the sums of a tile; returns the gradient of dt_raw, whose sum is that of dt_bias.
__device__ __forceinline__ float finish_backward(BackwardShared& s, const BackwardParams& p, const Place& at, int tile, int i) {
    int row = i / CHANNELS, c = i % CHANNELS;
    long long t = (long long)tile * TILE + row;
    if (t >= p.in.length || at.first_channel + c >= p.in.channels) return 0.0f;
    float d_input = 0.0f, d_decay = 0.0f;
    for (int w = 0; w < WARPS; ++w) {
        d_input += s.sums[w][row][0][c];
        d_decay += s.sums[w][row][1][c];
    }
    Pack<float, 4> f = s.factors[row][c];
    float d_dt_raw = f.at[2] * d_decay + f.at[3] * d_input;
    long long index = (at.batch * p.in.length + t) * p.in.channels + at.first_channel + c;
    assign(p.d_u[index], f.at[0] * d_input + f.at[1]);
    assign(p.d_dt_raw[index], d_dt_raw);
    return d_dt_raw;
}

__device__ __forceinline__ void finish_d_BC(BackwardShared& s, const BackwardParams& p, const Place& at, int tile) {
    constexpr int QUADS = D_STATE / 4;
#pragma unroll 2
    for (int v = threadIdx.x; v < TILE * 2 * QUADS; v += THREADS) {
        int row = v / (2 * QUADS), which = v / QUADS % 2, n = v % QUADS * 4;
        long long t = (long long)tile * TILE + row;
        if (t >= p.in.length) break;  // rows only grow
        int warp = n / (4 * KEEP);
        auto value = *reinterpret_cast<const Pack<float, 4>*>(&s.d_BC[row][warp * 8 * KEEP + which * 4 * KEEP + n % (4 * KEEP)]);
        float* to = (which ? p.d_C : p.d_B) + (at.batch * p.in.length + t) * D_STATE + n;
        if (p.group_stride) {
            *reinterpret_cast<Pack<float, 4>*>(to + at.first_channel / CHANNELS * p.group_stride) = value;
        } else {
            add_global(to, value);
        }
    }
}

// The k-th state of this thread; its two halves are swapped for every other channel lane.
__device__ __forceinline__ int backward_state(const Place& at, int k) {
    return at.first_state() + (k ^ (HALF * (at.channel_lane & 1)));
}

__device__ __forceinline__ void load_states(float (&to)[KEEP], const float* row, const Place& at) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        auto v = *reinterpret_cast<const Pack<float, HALF>*>(row + backward_state(at, half * HALF));
#pragma unroll
        for (int k = 0; k < HALF; ++k) to[half * HALF + k] = v.at[k];
    }
}

__device__ __forceinline__ void load_checkpoint(float (&h)[2][KEEP], const BackwardParams& p, const Place& at, int tile) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        int c = at.first_channel + at.channel(j);
        if (c < p.in.channels) {
            load_states(h[j], p.checkpoints + (((long long)at.batch * p.in.tiles + tile) * p.in.channels + c) * D_STATE, at);
        } else {
#pragma unroll
            for (int k = 0; k < KEEP; ++k) h[j][k] = 0.0f;
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BACKWARD_BLOCKS) scan_backward(const __grid_constant__ BackwardParams p) {
    extern __shared__ __align__(16) unsigned char memory[];
    BackwardShared& s = *reinterpret_cast<BackwardShared*>(memory);
    const Place at(p.in.groups);

    float A[2][KEEP];     // times log2(e)
    float d_A[2][KEEP];   // sum of d_decay_exponent * dt
    float carry[2][KEEP]; // gradient of the state after this step, as it comes from later steps
    float next_h[2][KEEP];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        int c = at.first_channel + at.channel(j);
#pragma unroll
        for (int k = 0; k < KEEP; ++k) {
            bool own = c < p.in.channels;
            int n = backward_state(at, k);
            A[j][k] = own ? p.in.A[c * D_STATE + n] * LOG2_E : 0.0f;
            d_A[j][k] = 0.0f;
            carry[j][k] = own && p.d_last ? p.d_last[((long long)at.batch * p.in.channels + c) * D_STATE + n] : 0.0f;
        }
    }
    const int c_own = threadIdx.x % CHANNELS;
    const bool c_valid = at.first_channel + c_own < p.in.channels;
    const float bias = c_valid ? p.in.dt_bias[at.first_channel + c_own] : 0.0f;
    const float skip = c_valid ? p.in.D[at.first_channel + c_own] : 0.0f;
    float d_D = 0.0f, d_bias = 0.0f;

    const int last_tile = p.in.tiles - 1;
    copy_inputs(s.raw, p.in, at, last_tile);
    copy_gradients(s, p, at, last_tile);
    load_checkpoint(next_h, p, at, last_tile);
#pragma unroll 1
    for (int tile = last_tile; tile >= 0; --tile) {
        wait_for_copies();
        __syncthreads();  // the raw tile is there; the sums of the tile after are complete
#pragma unroll 2
        for (int i = threadIdx.x; i < TILE * CHANNELS; i += THREADS) {
            if (tile < last_tile) d_bias += finish_backward(s, p, at, tile + 1, i);
            int row = i / CHANNELS;
            long long t = (long long)tile * TILE + row;
            float u = to_float(s.raw.per_channel[0][row][c_own]);
            float x = to_float(s.raw.per_channel[1][row][c_own]) + bias;
            float d_out = to_float(s.raw.per_channel[3][row][c_own]);
            float ratio = s.raw.ratio[row];
            float held = fminf(ratio, p.in.max_hold);
            float step = softplus(x), slope = sigmoid(x);
            float d_y = d_out;
            if (p.in.z) {
                float z = to_float(s.raw.per_channel[2][row][c_own]);
                float g = sigmoid(z);
                d_y = d_out * z * g;
                if (t < p.in.length && c_valid) {
                    float y = to_float(s.raw.per_channel[4][row][c_own]);
                    assign(p.d_z[at.batch * p.d_z_at.batch + t * p.d_z_at.row + at.first_channel + c_own],
                           d_out * y * g * (1.0f + z * (1.0f - g)));
                }
            }
            d_D += d_y * u;
            float dt = step * ratio, dt_in = step * held;
            s.steps[row][c_own] = {dt, dt_in * u, d_y, 0.0f};
            s.forward_steps[row][c_own] = {dt, dt_in * u};
            s.factors[row][c_own] = {dt_in, skip * d_y, ratio * slope * LN_2, held * u * slope};
        }
        if (tile < last_tile) finish_d_BC(s, p, at, tile + 1);
        widen(s.B, s.raw.B);
        widen(s.C, s.raw.C);
        __syncthreads();  // prepared; the raw tile and the sums may be overwritten
        float h[2][KEEP];
#pragma unroll
        for (int j = 0; j < 2; ++j)
#pragma unroll
            for (int k = 0; k < KEEP; ++k) h[j][k] = next_h[j][k];
        if (tile > 0) {
            copy_inputs(s.raw, p.in, at, tile - 1);
            copy_gradients(s, p, at, tile - 1);
            load_checkpoint(next_h, p, at, tile - 1);
        }

#pragma unroll 1
        for (int sub = 0; sub < SUBTILES - 1; ++sub) {
#pragma unroll
            for (int j = 0; j < 2; ++j)
#pragma unroll
                for (int k = 0; k < KEEP; ++k) s.states[sub][j * KEEP + k][threadIdx.x] = h[j][k];
#pragma unroll 4
            for (int t = sub * STEPS; t < (sub + 1) * STEPS; ++t) {
                float B[KEEP];
                load_states(B, s.B[t], at);
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    Pack<float, 2> step = s.forward_steps[t][at.channel(j)];
#pragma unroll
                    for (int k = 0; k < KEEP; ++k) {
                        h[j][k] = exp2_fast(step.at[0] * A[j][k]) * h[j][k] + step.at[1] * B[k];
                    }
                }
            }
        }
#pragma unroll 1
        for (int sub = SUBTILES - 1; sub >= 0; --sub) {
            float states[STEPS + 1][2][KEEP], decays[STEPS][2][KEEP];
#pragma unroll
            for (int j = 0; j < 2; ++j)
#pragma unroll
                for (int k = 0; k < KEEP; ++k) {
                    states[0][j][k] = sub == SUBTILES - 1 ? h[j][k] : s.states[sub][j * KEEP + k][threadIdx.x];
                }
#pragma unroll
            for (int i = 0; i < STEPS; ++i) {
                int t = sub * STEPS + i;
                float B[KEEP];
                load_states(B, s.B[t], at);
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    Pack<float, 2> step = s.forward_steps[t][at.channel(j)];
#pragma unroll
                    for (int k = 0; k < KEEP; ++k) {
                        decays[i][j][k] = exp2_fast(step.at[0] * A[j][k]);
                        states[i + 1][j][k] = decays[i][j][k] * states[i][j][k] + step.at[1] * B[k];
                    }
                }
            }
            // Sums are stored behind the sub-tile: the compiler moves no load across a store.
            const int upper = at.state_lane >> 1;
            const int bit1 = at.channel_lane >> 1 & 1, bit2 = at.channel_lane >> 2;
            float state_sums[STEPS], channel_sums[STEPS];
#pragma unroll
            for (int i = STEPS - 1; i >= 0; --i) {
                int t = sub * STEPS + i;
                float B[KEEP], C[KEEP], d_B[KEEP], d_C[KEEP], d_input[2], d_decay[2];
                load_states(B, s.B[t], at);
                load_states(C, s.C[t], at);
#pragma unroll
                for (int k = 0; k < KEEP; ++k) d_B[k] = d_C[k] = 0.0f;
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    Pack<float, 4> step = s.steps[t][at.channel(j)];
                    d_input[j] = d_decay[j] = 0.0f;
#pragma unroll
                    for (int k = 0; k < KEEP; ++k) {
                        float g = step.at[2] * C[k] + carry[j][k];
                        d_C[k] += step.at[2] * states[i + 1][j][k];
                        d_B[k] += step.at[1] * g;
                        d_input[j] += g * B[k];
                        carry[j][k] = decays[i][j][k] * g;
                        float d_exponent = carry[j][k] * states[i][j][k];
                        d_decay[j] += d_exponent * A[j][k];
                        d_A[j][k] += d_exponent * step.at[0];
                    }
                }
                // Over the 4 state lanes: the first exchange leaves one channel, the second one of the two sums.
                float first = d_input[0] + exchange(d_input[1], 8);
                float second = d_decay[0] + exchange(d_decay[1], 8);
                state_sums[i] = (upper ? second : first) + exchange(upper ? first : second, 16);
                // Over the 8 channel lanes: the first exchange leaves one half of the states.
#pragma unroll
                for (int k = 0; k < HALF; ++k) {
                    d_B[k] += exchange(d_B[k + HALF], 1);
                    d_C[k] += exchange(d_C[k + HALF], 1);
                }
#if KEEP == 4
                float b = (bit1 ? d_B[1] : d_B[0]) + exchange(bit1 ? d_B[0] : d_B[1], 2);
                float c = (bit1 ? d_C[1] : d_C[0]) + exchange(bit1 ? d_C[0] : d_C[1], 2);
                channel_sums[i] = (bit2 ? c : b) + exchange(bit2 ? b : c, 4);
#else
                // The last exchange takes two steps at once: the even one is done after the odd one.
                channel_sums[i] = (bit1 ? d_C[0] : d_B[0]) + exchange(bit1 ? d_B[0] : d_C[0], 2);
                if (i % 2 == 0) {
                    float kept = bit2 ? channel_sums[i + 1] : channel_sums[i];
                    channel_sums[i] = kept + exchange(bit2 ? channel_sums[i] : channel_sums[i + 1], 4);
                }
#endif
            }
            float* sums = &s.sums[at.warp][sub * STEPS][upper][at.channel(0)];
#if KEEP == 4
            constexpr int STRIDE = 1;  // steps between stores of one thread
            const int place = bit2 * 4 * KEEP + at.state_lane * KEEP + 2 * (at.channel_lane & 1) + bit1;
#else
            constexpr int STRIDE = 2;
            const int place = bit2 * ROW + bit1 * 4 * KEEP + at.state_lane * KEEP + (at.channel_lane & 1);
#endif
            float* row = &s.d_BC[sub * STEPS][at.warp * 8 * KEEP + place];
#pragma unroll
            for (int i = 0; i < STEPS; ++i) {
                sums[i * 2 * CHANNELS] = state_sums[i];
                if (i % STRIDE == 0) row[i * ROW] = channel_sums[i];
            }
        }
    }
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < TILE * CHANNELS; i += THREADS) d_bias += finish_backward(s, p, at, 0, i);
    finish_d_BC(s, p, at, 0);

#pragma unroll
    for (int j = 0; j < 2; ++j) {
        int c = at.first_channel + at.channel(j);
        if (c >= p.in.channels) continue;
#pragma unroll
        for (int k = 0; k < KEEP; ++k) {
            long long index = ((long long)at.batch * p.in.channels + c) * D_STATE + backward_state(at, k);
            p.d_A[index] = d_A[j][k];
            if (p.d_initial) p.d_initial[index] = carry[j][k];
        }
    }
    __syncthreads();
    float* scratch = &s.sums[0][0][0][0];  // at least 2 * THREADS floats: WARPS * TILE * 32 of them
    scratch[threadIdx.x] = d_D;
    scratch[THREADS + threadIdx.x] = d_bias;
    __syncthreads();
    if (threadIdx.x < CHANNELS && c_valid) {
        float total_D = 0.0f, total_bias = 0.0f;
        for (int v = threadIdx.x; v < THREADS; v += CHANNELS) {
            total_D += scratch[v];
            total_bias += scratch[THREADS + v];
        }
        p.d_D[at.batch * p.in.channels + at.first_channel + c_own] = total_D;
        p.d_dt_bias[at.batch * p.in.channels + at.first_channel + c_own] = total_bias;
    }
}

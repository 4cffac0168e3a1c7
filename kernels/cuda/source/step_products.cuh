// Products of the weights with a tile's vehicles, and sums over the ranks.
//
// Projections run on the tensor cores, weights as the left operand (16 outputs x 16 inputs), vehicles as the columns of
// the right one. Each float is cut into two numbers of 10 bits of mantissa, high and low; of the four products low x low
// is dropped, which leaves a relative error near 2^-21. The host lays each warp's fragments of a product one behind the
// other, so that a warp streams through memory, DEPTH fragments ahead; what the first ones are does not depend on
// activations, and they are asked for before the barrier in front of the product.
#pragma once
#include "step_layout.cuh"

__device__ __forceinline__ Pack<float, 4> load4(const float* from) {
    return *reinterpret_cast<const Pack<float, 4>*>(from);
}
__device__ __forceinline__ void store4(float* to, Pack<float, 4> v) { *reinterpret_cast<Pack<float, 4>*>(to) = v; }
__device__ __forceinline__ Pack<float, 4> add4(Pack<float, 4> a, Pack<float, 4> b) {
#pragma unroll
    for (int i = 0; i < 4; ++i) a.at[i] += b.at[i];
    return a;
}

// A product of OUT_TILES x 16 outputs over STEPS x 16 inputs, cut in SPLIT along the inputs. Unit u = (split, tile) of it
// is warp u % WARPS's.
template <int OUT_TILES, int STEPS, int SPLIT>
struct Product {
    static constexpr int UNITS = OUT_TILES * SPLIT, UNIT_STEPS = STEPS / SPLIT;
    static_assert(STEPS % SPLIT == 0, "splits must be even");
    // Fragments under way: whole units, or an even part of one, so that each has its registers at compile time.
    __device__ static constexpr int depth() {
        if (UNIT_STEPS <= PIPE) return PIPE / UNIT_STEPS * UNIT_STEPS;
        int most = PIPE;
        while (UNIT_STEPS % most) --most;
        return most;
    }
    static constexpr int DEPTH = depth();
    Half ahead[DEPTH][2];
    const Half* at;
    int left;  // fragments of this warp

    // Without `wanted` nothing is asked for, and nothing may be run.
    __device__ __forceinline__ Product(const Half* weights, bool wanted = true) {
        int warp = threadIdx.x / 32, rest = UNITS % WARPS;
        left = wanted ? (UNITS / WARPS + (warp < rest)) * UNIT_STEPS : 0;
        int before = (warp * (UNITS / WARPS) + (warp < rest ? warp : rest)) * UNIT_STEPS;
        at = weights + before * FRAGMENT + threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < DEPTH; ++i) {
            ahead[i][0] = ahead[i][1] = Half();
            ask(i, i);
        }
    }

    // Reads this warp's fragment `step` into registers, if there is one.
    __device__ __forceinline__ void ask(int i, int step) {
        bool valid = step < left;
        load_weights(ahead[i][0], at + step * FRAGMENT, valid);
        load_weights(ahead[i][1], at + step * FRAGMENT + 32, valid);
    }

    // in: (COLUMNS, in_stride); out: (SPLIT, COLUMNS, out_stride), whose splits are still to be added.
    __device__ __forceinline__ void run(const float* in, int in_stride, float* out, int out_stride) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        float high[TILES][4], mixed[TILES][4], crossed[TILES][4];
        int unit = threadIdx.x / 32;
#pragma unroll 1
        for (int done = 0; done < left;) {
            const float* column = in + g * in_stride + unit / OUT_TILES * UNIT_STEPS * 16 + 4 * t;
#pragma unroll 1
            for (int part = 0; part < UNIT_STEPS; part += DEPTH) {
#pragma unroll
                for (int i = 0; i < DEPTH; ++i) {
                    if (i % UNIT_STEPS == 0 && i > 0) {  // the group holds several units
                        store(out, out_stride, unit, high, mixed, crossed);
                        if (done == left) return;
                        unit += WARPS;
                        column = in + g * in_stride + unit / OUT_TILES * UNIT_STEPS * 16 + 4 * t;
                    }
                    if (i % UNIT_STEPS == 0 && part == 0) {
#pragma unroll
                        for (int n = 0; n < TILES; ++n)
#pragma unroll
                            for (int k = 0; k < 4; ++k) high[n][k] = mixed[n][k] = crossed[n][k] = 0.0f;
                    }
                    multiply(ahead[i], column + (part + i % UNIT_STEPS) * 16, in_stride, high, mixed, crossed);
                    ask(i, done + DEPTH);
                    ++done;
                }
            }
            store(out, out_stride, unit, high, mixed, crossed);
            unit += WARPS;
        }
    }

    __device__ __forceinline__ static void multiply(const Half (&w)[2], const float* column, int in_stride,
                                                    float (&high)[TILES][4], float (&mixed)[TILES][4],
                                                    float (&crossed)[TILES][4]) {
        float b[TILES][4], b_low[TILES][4];
#pragma unroll
        for (int n = 0; n < TILES; ++n) {
            Pack<float, 4> value = load4(column + n * 8 * in_stride);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                b[n][i] = round_to_tf32(value.at[i]);
                b_low[n][i] = value.at[i] - b[n][i];
            }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float a[4], a_low[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float value = to_float(w[half].at[i]);
                a[i] = cut_to_tf32(value);
                a_low[i] = value - a[i];
            }
#pragma unroll
            for (int n = 0; n < TILES; ++n) {
                multiply_add(high[n], a, &b[n][2 * half]);
                multiply_add(mixed[n], a, &b_low[n][2 * half]);
#if !ELEMENT_BF16
                multiply_add(crossed[n], a_low, &b[n][2 * half]);
#endif
            }
        }
    }

    __device__ __forceinline__ static void store(float* out, int out_stride, int unit, const float (&high)[TILES][4],
                                                 const float (&mixed)[TILES][4], const float (&crossed)[TILES][4]) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        int split = unit / OUT_TILES, row = unit % OUT_TILES * 16 + g;
#pragma unroll
        for (int n = 0; n < TILES; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                int van = n * 8 + 2 * t + i % 2;
                out[(split * COLUMNS + van) * out_stride + row + i / 2 * 8] =
                    high[n][i] + (mixed[n][i] + crossed[n][i]);
            }
    }
};

typedef Product<MODEL / 16, INPUT_STEPS, 1> Embedding;
typedef Product<HEAD_TILES, MODEL_STEPS, SPLIT_HEADS> Heads;
typedef Product<2 * OWN / 16, MODEL_STEPS, SPLIT_IN> InProj;
typedef Product<PROJECTED_TILES, OWN_STEPS, SPLIT_PROJECTED> XProj;
typedef Product<MODEL / 16, OWN_STEPS, SPLIT_OUT> OutProj;

template <int SPLIT>
__device__ __forceinline__ float total(const float* partial, int stride, int van, int row) {
    float sum = partial[van * stride + row];
#pragma unroll
    for (int split = 1; split < SPLIT; ++split) sum += partial[(split * COLUMNS + van) * stride + row];
    return sum;
}

template <int SPLIT>
__device__ __forceinline__ Pack<float, 4> total4(const float* partial, int stride, int van, int row) {
    Pack<float, 4> sum = load4(partial + van * stride + row);
#pragma unroll
    for (int split = 1; split < SPLIT; ++split) sum = add4(sum, load4(partial + (split * COLUMNS + van) * stride + row));
    return sum;
}

// to[van][...] = (ADD ? to : 0) + the partial sums (SPLIT, COLUMNS, stride) of all ranks, for `vans` vehicles and WIDTH
// rows of each, in every block of the cluster; `uses` counts. Starts and ends with a barrier.
//
// Every rank sends its parts to all others and adds up what it gets. Nobody sends into an inbox before it has been
// emptied: between two uses of one lies a use of the other, which waits for every rank.
template <int SPLIT, int WIDTH, bool ADD>
__device__ __forceinline__ void add_up(Shared& s, float* to, int to_stride, int stride, int& uses, int vans, int rank) {
    constexpr int QUADS = WIDTH / 4;
    const int items = vans * QUADS;
    meet_projectors();
#if RANKS == 1
#pragma unroll 1
    for (int item = threadIdx.x; item < items; item += PROJECTORS) {
        int van = item / QUADS, row = item % QUADS * 4;
        Pack<float, 4> sum = total4<SPLIT>(s.scratch, stride, van, row);
        if (ADD) sum = add4(load4(to + van * to_stride + row), sum);
        store4(to + van * to_stride + row, sum);
    }
    meet_projectors();
#else
    float* inbox = s.inbox[uses % 2];
    Mail* mail = &s.mail[uses % 2];
    if (threadIdx.x == 0) expect_bytes(mail, items * RANKS * 16);
    // A warp has a slice of the items and sends it to one rank, or to several.
    constexpr int SLICES = WARPS > RANKS ? WARPS / RANKS : 1;
    const int warp = threadIdx.x / 32, slice = warp / RANKS;
    if (slice < SLICES) {
#pragma unroll 1
        for (int item = slice * 32 + threadIdx.x % 32; item < items; item += SLICES * 32) {
            Pack<float, 4> sum = total4<SPLIT>(s.scratch, stride, item / QUADS, item % QUADS * 4);
#pragma unroll
            for (int peer = 0; peer < RANKS; peer += WARPS) {
                int to_rank = (warp + peer + rank) % RANKS;
                if (warp + peer < RANKS * SLICES) send(inbox + (rank * items + item) * 4, mail, to_rank, sum);
            }
        }
    }
    wait_for_mail(mail, uses / 2 % 2);
#pragma unroll 1
    for (int item = threadIdx.x; item < items; item += PROJECTORS) {
        float* at = to + item / QUADS * to_stride + item % QUADS * 4;
        Pack<float, 4> parts[RANKS];
#pragma unroll
        for (int from = 0; from < RANKS; ++from) parts[from] = load4(inbox + (from * items + item) * 4);
        Pack<float, 4> sum = parts[0];
#pragma unroll
        for (int from = 1; from < RANKS; ++from) sum = add4(sum, parts[from]);
        if (ADD) sum = add4(load4(at), sum);
        store4(at, sum);
    }
    meet_projectors();
#endif
    ++uses;
}

// 1 / rms(x) of each vehicle.  Source: Zhang & Sennrich 2019.  The weight sits in the projection that follows.
__device__ __forceinline__ void measure(Tile& tile, float norm_eps, int vans) {
#pragma unroll 1
    for (int van = threadIdx.x / 32; van < vans; van += WARPS) {
        float squares = 0.0f;
        for (int i = threadIdx.x % 32; i < MODEL; i += 32) squares += tile.x[van][i] * tile.x[van][i];
#pragma unroll
        for (int mask = 16; mask; mask /= 2) squares += exchange(squares, mask);
        if (threadIdx.x % 32 == 0) tile.scale[van] = inverse_root(squares / D_MODEL + norm_eps);
    }
}

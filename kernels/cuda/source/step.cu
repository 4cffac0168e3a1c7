// One sample of every vehicle of a batch through the whole network, embedding to heads, states updated in place.
//
// A cluster of RANKS blocks takes tiles of up to COLUMNS vehicles, one tile after another. Each of its blocks owns
// OWN of the d_inner channels, with their weights, convolution and selective state; the residual stream is held by every
// block. Twice a layer, behind x_proj and out_proj, the blocks send each other partial sums and add them up.
// RANKS = 1 is one block per tile. With few vehicles many ranks share the weights, which are then the time; with many
// vehicles a block keeps a tile to itself, and the states' bytes are the time.
//
// Projections run on the tensor cores, weights as the left operand (16 outputs x 16 inputs), vehicles as the columns of
// the right one. Each float is cut into two numbers of 10 bits of mantissa, high and low; of the four products low x low
// is dropped, which leaves a relative error near 2^-21. The host lays each warp's fragments of a product one behind the
// other, so that a warp streams through memory, DEPTH fragments ahead; what the first ones are does not depend on
// activations, and they are asked for before the barrier in front of the product.
//
// States stream through a ring in shared memory, RING slots ahead of their use, across layers and tiles: each thread
// copies what it alone will read, advance and write back, so no barrier is needed. A slot holds, for one vehicle (or
// VANS_AT_ONCE of them, where a rank's channels do not fill the block), TOGETHER channels of each thread:
//
//     thread = (vehicle of the step, channel, state lane), lanes of one channel side by side, VECTOR states each
//
// Compile-time: see kernels/cuda/step_plan.py, which also checks that all sizes agree.
#include "cluster.cuh"

constexpr int WARPS = THREADS / 32;
constexpr int TILES = COLUMNS / 8;               // of 8 columns
// Rows that fragments are read from are 16 mod 32 apart, rows of sums 4 mod 8: neither has bank conflicts.
__device__ constexpr int row_stride(int width) { return width % 32 ? width : width + 16; }
constexpr int MODEL_STRIDE = row_stride(MODEL), OWN_STRIDE = row_stride(OWN);
constexpr int FEATURES = 16 * INPUT_STEPS, FEATURE_STRIDE = row_stride(FEATURES);
constexpr int MODEL_SUMS = MODEL + 4, PROJECTED_SUMS = 16 * PROJECTED_TILES + 4, HEAD_SUMS = 16 * HEAD_TILES + 4;
constexpr int WIDE = 2 * OWN + 4;                // u and z side by side
constexpr int MODEL_STEPS = MODEL / 16, OWN_STEPS = OWN / 16;
constexpr int PASS = THREADS / LANES;            // channels that the block's threads cover at once
constexpr int VANS_AT_ONCE = PASS > OWN ? PASS / OWN : 1;
constexpr int STATES = LANES * VECTOR;           // d_state, padded
constexpr int B_AT = RANK_PADDED, C_AT = RANK_PADDED + STATES, PROJECTED = RANK_PADDED + 2 * STATES;
constexpr int HEADS = 2 * N_CHANNELS + 1;
constexpr int ITEMS = (COLUMNS * OWN + THREADS - 1) / THREADS;  // of (vehicle, channel) per thread
constexpr int AT_ONCE = ITEMS < 4 ? ITEMS : 4;   // of them
constexpr int HISTORY = D_CONV - 1;
// Offsets in the table of one rank and layer.
constexpr int CONV_BIAS = D_CONV * OWN, DT_BIAS = CONV_BIAS + OWN, SKIP = DT_BIAS + OWN, DT_WEIGHT = SKIP + OWN;
constexpr int TABLE = DT_WEIGHT + DT_RANK * OWN;
constexpr int LAYER_FRAGMENTS = 2 * OWN / 16 * MODEL_STEPS + PROJECTED_TILES * OWN_STEPS + MODEL / 16 * OWN_STEPS;
constexpr float LOG_SCALE_LEAST = -5.6f, LOG_SCALE_MOST = 3.0f;  // LOG_SCALE_BOUNDS of kernels/reference.py
static_assert(OWN % 16 == 0 && MODEL % 16 == 0 && THREADS % LANES == 0 && PROJECTED % 4 == 0, "sizes must divide");

typedef Pack<Element, 4> Half;  // a lane's four of 16 x 8 weights; a fragment is two such, 32 lanes each
constexpr int FRAGMENT = 64;
typedef Pack<float, VECTOR> Vector;

struct StepParams {
    const Half* weights;             // embedding, heads, then layer by layer and rank by rank
    const float* tables;         // embedding bias, heads' bias, then (layer, rank) tables, then (layer, rank) A * log2(e)
    const long long* slots;      // (rows)
    const float *features;       // (rows, d_input)
    const float *ratio;          // (rows)
    float *conv, *ssm;           // the pool
    float *out;                  // (rows, HEADS): means, log scales, risk
    long long rows;
    int vans, tiles, clusters;   // vehicles per tile
    float max_hold, norm_eps;
};

struct Shared {
    alignas(16) float x[COLUMNS][MODEL_STRIDE];
    float features[COLUMNS][FEATURE_STRIDE];
    float act[COLUMNS][OWN_STRIDE];      // u, then the gated y
    float gate[COLUMNS][OWN_STRIDE];     // silu(z)
    float projected[COLUMNS][PROJECTED_SUMS];
    float scratch[SCRATCH];              // unfinished sums
    float inbox[2][INBOX];               // other ranks' sums of x_proj, of out_proj
    alignas(16) Pack<float, 2> steps[COLUMNS][OWN];  // dt, dt_in * u
    float tables[TABLES_SHARED ? N_LAYER * TABLE : 4];
    float scale[COLUMNS];                // 1 / rms(x)
    float ratio[COLUMNS];
    long long slot[COLUMNS];
    Mail mail[2];                        // of the inboxes
    alignas(16) Vector ring[RING][TOGETHER][THREADS];
};
static_assert(sizeof(Shared) == SHARED_BYTES && sizeof(StepParams) == PARAMS_BYTES, "differs from the caller's");

__device__ __forceinline__ float silu(float x) { return x * sigmoid(x); }

// ---------------------------------------------------------------------------------------------------- projections

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
// rows of each, in every block of the cluster. Starts and ends with a barrier.
//
// Every rank sends its parts to all others and adds up what it gets. Nobody sends into an inbox before it has been
// emptied: between two uses of one lies a use of the other, which waits for every rank.
template <int SPLIT, int WIDTH, bool ADD>
__device__ __forceinline__ void add_up(float* to, int to_stride, const float* partial, int stride, float* inbox, Mail* mail,
                                       int parity, int vans, int rank) {
    constexpr int QUADS = WIDTH / 4;
    const int items = vans * QUADS;
    __syncthreads();
#if RANKS == 1
#pragma unroll 1
    for (int item = threadIdx.x; item < items; item += THREADS) {
        int van = item / QUADS, row = item % QUADS * 4;
        Pack<float, 4> sum = total4<SPLIT>(partial, stride, van, row);
        if (ADD) sum = add4(load4(to + van * to_stride + row), sum);
        store4(to + van * to_stride + row, sum);
    }
    __syncthreads();
#else
    if (threadIdx.x == 0) expect_bytes(mail, items * RANKS * 16);
#pragma unroll 1
    for (int i = threadIdx.x; i < items * RANKS; i += THREADS) {
        int item = i % items, peer = (i / items + rank) % RANKS;
        Pack<float, 4> sum = total4<SPLIT>(partial, stride, item / QUADS, item % QUADS * 4);
        send(inbox + (rank * items + item) * 4, mail, peer, sum);
    }
    wait_for_mail(mail, parity);
#pragma unroll 1
    for (int item = threadIdx.x; item < items; item += THREADS) {
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
    __syncthreads();
#endif
}

// 1 / rms(x) of each vehicle.  Source: Zhang & Sennrich 2019.  The weight sits in the projection that follows.
__device__ __forceinline__ void measure(Shared& s, float norm_eps, int vans) {
#pragma unroll 1
    for (int van = threadIdx.x / 32; van < vans; van += WARPS) {
        float squares = 0.0f;
        for (int i = threadIdx.x % 32; i < MODEL; i += 32) squares += s.x[van][i] * s.x[van][i];
#pragma unroll
        for (int mask = 16; mask; mask /= 2) squares += exchange(squares, mask);
        if (threadIdx.x % 32 == 0) s.scale[van] = 1.0f / sqrtf(squares / D_MODEL + norm_eps);
    }
}

// ------------------------------------------------------------------------------------------------ selective state

struct Owner {  // of this thread's states
    int lane, channel, van;  // state lane; first channel of the rank's; vehicle of the step, VANS_AT_ONCE if idle

    __device__ __forceinline__ Owner() {
        int index = threadIdx.x / LANES;
        lane = threadIdx.x % LANES;
        channel = VANS_AT_ONCE > 1 ? index % OWN : index;
        van = VANS_AT_ONCE > 1 ? index / OWN : 0;
    }
    __device__ __forceinline__ bool idle() const { return van >= VANS_AT_ONCE; }
    // Whether a channel exists, and its states of this lane.
    __device__ __forceinline__ bool has(int rank, int c) const {
        constexpr bool ALL = OWN % (PASS < OWN ? PASS * TOGETHER : OWN) == 0 && RANKS * OWN == D_INNER && STATES == D_STATE;
        return ALL || (c < OWN && rank * OWN + c < D_INNER && lane * VECTOR < D_STATE);
    }
    __device__ __forceinline__ int nth(int part, int j) const { return channel + (part * TOGETHER + j) * PASS; }
};

__device__ __forceinline__ long long state_at(long long slot, int layer, int channel, int lane) {
    return ((slot * N_LAYER + layer) * D_INNER + channel) * D_STATE + lane * VECTOR;
}

__device__ __forceinline__ int vans_of(const StepParams& p, int tile) {
    long long left = p.rows - (long long)tile * p.vans;
    return left < p.vans ? (int)left : p.vans;
}

// What the ring fetches next. The slot number is read one step ahead of its use.
struct Cursor {
    int tile, layer, part, first, vans, place;
    long long slot;

    __device__ __forceinline__ void read_slot(const StepParams& p, const Owner& own) {
        int van = first + own.van;
        if (tile < p.tiles && !own.idle() && van < vans) slot = p.slots[(long long)tile * p.vans + van];
        else slot = -1;
    }
    __device__ __forceinline__ void fetch(Shared& s, const StepParams& p, const Owner& own, int rank, Policy policy) {
        if (slot >= 0) {
            const float* from = p.ssm + state_at(slot, layer, rank * OWN + own.nth(part, 0), own.lane);
#pragma unroll
            for (int j = 0; j < TOGETHER; ++j) {
                if (own.has(rank, own.nth(part, j))) copy_state(&s.ring[place][j][threadIdx.x], from + j * PASS * D_STATE, policy);
            }
        }
        commit_copies();
        if (++place == RING) place = 0;
        first += VANS_AT_ONCE;
        if (first >= vans && tile < p.tiles) {
            first = 0;
            if (++part == PARTS) {
                part = 0;
                if (++layer == N_LAYER) {
                    layer = 0;
                    tile += p.clusters;
                    vans = tile < p.tiles ? vans_of(p, tile) : 0;
                }
            }
        }
        read_slot(p, own);
    }
};

// Adds each of COUNT values over the WIDTH lanes of a channel; value `result` ends up, complete, in sums[0].
template <int COUNT, int WIDTH>
__device__ __forceinline__ void add_lanes(float* sums, int lane, int& result) {
    if constexpr (WIDTH > 1) {
        constexpr int HALF = COUNT / 2, MASK = WIDTH / 2;
        if constexpr (COUNT > 1) {
            bool upper = lane & MASK;
#pragma unroll
            for (int k = 0; k < HALF; ++k) {
                float kept = upper ? sums[k + HALF] : sums[k], sent = upper ? sums[k] : sums[k + HALF];
                sums[k] = kept + exchange(sent, MASK);
            }
            if (upper) result += HALF;
            add_lanes<HALF, MASK>(sums, lane, result);
        } else {
            sums[0] += exchange(sums[0], MASK);
            add_lanes<1, MASK>(sums, lane, result);
        }
    }
}

// A * log2(e) of this thread's states in one part.
__device__ __forceinline__ void load_decays(Vector (&A)[TOGETHER], const float* from, const Owner& own, int part) {
#pragma unroll
    for (int j = 0; j < TOGETHER; ++j) {
        int c = own.nth(part, j);
        if (c < OWN) A[j] = *reinterpret_cast<const Vector*>(from + c * STATES + own.lane * VECTOR);
    }
}

// h = exp(dt A) h + dt_in u B; act = (h . C + D u) * silu(z), for the rank's channels of all vehicles of the tile.
__device__ __forceinline__ void advance_states(Shared& s, const StepParams& p, const Owner& own, Cursor& cursor, int layer,
                                               int rank, int vans, const float* table,
                                               const float* decay, Vector (&next)[TOGETHER], int& place,
                                               Policy policy) {
#pragma unroll 1
    for (int part = 0; part < PARTS; ++part) {
        Vector A[TOGETHER];
#pragma unroll
        for (int j = 0; j < TOGETHER; ++j) A[j] = next[j];
        if (part + 1 < PARTS) load_decays(next, decay, own, part + 1);
#pragma unroll 1
        for (int first = 0; first < vans; first += VANS_AT_ONCE) {
            int van = first + own.van;
            bool live = !own.idle() && van < vans;
            if (!live) van = 0;
            float sums[TOGETHER];
            const Vector* lanes = reinterpret_cast<const Vector*>(s.projected[van]) + own.lane;
            Vector B = load_shared(lanes + B_AT / VECTOR), C = load_shared(lanes + C_AT / VECTOR);
            float* to = p.ssm + state_at(s.slot[van], layer, rank * OWN + own.nth(part, 0), own.lane);
            wait_for_older_copies<RING - 1>();
#pragma unroll
            for (int j = 0; j < TOGETHER; ++j) {
                int c = own.nth(part, j);
                bool has = live && own.has(rank, c);
                sums[j] = 0.0f;
                if (has) {
                    Pack<float, 2> step = s.steps[van][c];
                    Vector h = load_shared(&s.ring[place][j][threadIdx.x]);
#pragma unroll
                    for (int i = 0; i < VECTOR; ++i) {
                        h.at[i] = exp2_fast(step.at[0] * A[j].at[i]) * h.at[i] + step.at[1] * B.at[i];
                        sums[j] += h.at[i] * C.at[i];
                    }
                    store_state(to + j * PASS * D_STATE, h, policy);
                }
            }
            if (++place == RING) place = 0;
            cursor.fetch(s, p, own, rank, policy);  // into the place that was just read
            int j = 0;
            add_lanes<TOGETHER, LANES>(sums, own.lane, j);
            int c = own.nth(part, j);
            if (live && own.lane % (LANES / TOGETHER) == 0 && c < OWN && rank * OWN + c < D_INNER) {
                float u = s.act[van][c];
                s.act[van][c] = (sums[0] + table[SKIP + c] * u) * s.gate[van][c];
            }
        }
    }
}

// -------------------------------------------------------------------------------------------------- the network

__device__ __forceinline__ void load_window(float (&window)[AT_ONCE][HISTORY], const Shared& s, const StepParams& p,
                                            int layer, int rank, int vans, int first) {
#pragma unroll
    for (int k = 0; k < AT_ONCE; ++k) {
        int item = threadIdx.x + (first + k) * THREADS, van = item / OWN, channel = rank * OWN + item % OWN;
        bool valid = van < vans && channel < D_INNER;
        const float* from = p.conv + (s.slot[valid ? van : 0] * N_LAYER + layer) * HISTORY * D_INNER + channel;
#pragma unroll
        for (int tap = 0; tap < HISTORY; ++tap) window[k][tap] = valid ? from[tap * D_INNER] : 0.0f;
    }
}

// u = silu(conv(window)), gate = silu(z), and the window moves on by one sample.
__device__ __forceinline__ void convolve(Shared& s, const StepParams& p, float (&window)[AT_ONCE][HISTORY],
                                         const float* table, int layer, int rank, int vans, int first) {
#pragma unroll
    for (int k = 0; k < AT_ONCE; ++k) {
        int item = threadIdx.x + (first + k) * THREADS, van = item / OWN, c = item % OWN, channel = rank * OWN + c;
        if (van >= vans) continue;
        float scale = s.scale[van];
        float newest = scale * total<SPLIT_IN>(s.scratch, WIDE, van, c);
        float z = scale * total<SPLIT_IN>(s.scratch, WIDE, van, OWN + c);
        float sum = table[CONV_BIAS + c] + table[HISTORY * OWN + c] * newest;
        if (channel < D_INNER) {
            float* to = p.conv + (s.slot[van] * N_LAYER + layer) * HISTORY * D_INNER + channel;
#pragma unroll
            for (int tap = 0; tap < HISTORY; ++tap) {
                sum += table[tap * OWN + c] * window[k][tap];
                to[tap * D_INNER] = tap + 1 < HISTORY ? window[k][tap + 1] : newest;
            }
        }
        s.act[van][c] = silu(sum);
        s.gate[van][c] = silu(z);
    }
}

__device__ __forceinline__ void step_sizes(Shared& s, const StepParams& p, const float* table, int vans) {
#pragma unroll AT_ONCE
    for (int k = 0; k < ITEMS; ++k) {
        int item = threadIdx.x + k * THREADS, van = item / OWN, c = item % OWN;
        if (van >= vans) continue;
        float raw = table[DT_BIAS + c];
#pragma unroll
        for (int i = 0; i < DT_RANK; ++i) raw += table[DT_WEIGHT + i * OWN + c] * s.projected[van][i];
        float step = softplus(raw), ratio = s.ratio[van];
        s.steps[van][c] = {step * ratio, step * fminf(ratio, p.max_hold) * s.act[van][c]};
    }
}

extern "C" __global__ void __cluster_dims__(RANKS, 1, 1) __launch_bounds__(THREADS, 1)
network_step(const __grid_constant__ StepParams p) {
    Shared& s = *reinterpret_cast<Shared*>(block_memory());
    const int rank = blockIdx.x % RANKS, cluster = blockIdx.x / RANKS;
    const Owner own;
    const Policy policy = state_policy<KEPT>();
    const Half* embedding = p.weights;
    const Half* heads = embedding + MODEL / 16 * INPUT_STEPS * FRAGMENT;
    const Half* layers = heads + HEAD_TILES * MODEL_STEPS * FRAGMENT;
    const float* embedding_bias = p.tables;
    const float* head_bias = embedding_bias + MODEL;
    const float* tables = head_bias + 16 * HEAD_TILES;
    const float* decays = tables + N_LAYER * RANKS * TABLE;

    Cursor cursor{cluster, 0, 0, 0, cluster < p.tiles ? vans_of(p, cluster) : 0, 0, -1};
    cursor.read_slot(p, own);
#pragma unroll 1
    for (int i = 0; i < RING; ++i) cursor.fetch(s, p, own, rank, policy);
    int place = 0, parity = 0;
#if RANKS > 1
    if (threadIdx.x == 0) {
        for (Mail& mail : s.mail) open_mail(&mail);
    }
    sync_cluster();  // nobody sends before all are open
#endif
#if TABLES_SHARED
#pragma unroll 1
    for (int i = threadIdx.x; i < N_LAYER * TABLE; i += THREADS) {
        s.tables[i] = tables[(i / TABLE * RANKS + rank) * TABLE + i % TABLE];
    }
#endif

#pragma unroll 1
    for (int tile = cluster; tile < p.tiles; tile += p.clusters) {
        const long long row = (long long)tile * p.vans;
        const int vans = vans_of(p, tile);
        {
            Embedding product(embedding);
            for (int i = threadIdx.x; i < COLUMNS * FEATURES; i += THREADS) {
                int van = i / FEATURES, k = i % FEATURES;
                s.features[van][k] = van < vans && k < D_INPUT ? p.features[(row + van) * D_INPUT + k] : 0.0f;
            }
            if (threadIdx.x < COLUMNS) {
                bool valid = (int)threadIdx.x < vans;
                s.ratio[threadIdx.x] = valid ? p.ratio[row + threadIdx.x] : 0.0f;
                s.slot[threadIdx.x] = valid ? p.slots[row + threadIdx.x] : 0;
            }
            __syncthreads();
            product.run(&s.features[0][0], FEATURE_STRIDE, s.scratch, MODEL_SUMS);
            __syncthreads();
        }
        for (int i = threadIdx.x; i < COLUMNS * MODEL; i += THREADS) {
            int van = i / MODEL, k = i % MODEL;
            s.x[van][k] = s.scratch[van * MODEL_SUMS + k] + embedding_bias[k];
        }
        InProj in_proj(layers + (long long)rank * LAYER_FRAGMENTS * FRAGMENT);
        __syncthreads();
#pragma unroll 1
        for (int layer = 0; layer < N_LAYER; ++layer) {
            const Half* weights = layers + ((long long)layer * RANKS + rank) * LAYER_FRAGMENTS * FRAGMENT;
#if TABLES_SHARED
            const float* table = s.tables + layer * TABLE;
#else
            const float* table = tables + (layer * RANKS + rank) * TABLE;
#endif
            float window[AT_ONCE][HISTORY];
            load_window(window, s, p, layer, rank, vans, 0);
            in_proj.run(&s.x[0][0], MODEL_STRIDE, s.scratch, WIDE);
            measure(s, p.norm_eps, vans);
            weights += 2 * OWN / 16 * MODEL_STEPS * FRAGMENT;
            XProj x_proj(weights);
            __syncthreads();
            convolve(s, p, window, table, layer, rank, vans, 0);
#pragma unroll 1
            for (int first = AT_ONCE; first < ITEMS; first += AT_ONCE) {
                load_window(window, s, p, layer, rank, vans, first);
                convolve(s, p, window, table, layer, rank, vans, first);
            }
            __syncthreads();
            x_proj.run(&s.act[0][0], OWN_STRIDE, s.scratch, PROJECTED_SUMS);
            Vector A[TOGETHER];
            const float* decay = decays + (long long)(layer * RANKS + rank) * OWN * STATES;
            // Few ranks have no registers to spare, and their time is the states'.
            if (RANKS > 2) load_decays(A, decay, own, 0);
            add_up<SPLIT_PROJECTED, PROJECTED, false>(&s.projected[0][0], PROJECTED_SUMS, s.scratch, PROJECTED_SUMS,
                                                      s.inbox[0], &s.mail[0], parity, vans, rank);
            if (RANKS <= 2) load_decays(A, decay, own, 0);
            step_sizes(s, p, table, vans);
            __syncthreads();
            advance_states(s, p, own, cursor, layer, rank, vans, table, decay, A, place, policy);
            OutProj out_proj(weights + PROJECTED_TILES * OWN_STEPS * FRAGMENT);
            __syncthreads();
            out_proj.run(&s.act[0][0], OWN_STRIDE, s.scratch, MODEL_SUMS);
            in_proj = InProj(layers + ((layer + 1LL) * RANKS + rank) * LAYER_FRAGMENTS * FRAGMENT, layer + 1 < N_LAYER);
            add_up<SPLIT_OUT, MODEL, true>(&s.x[0][0], MODEL_STRIDE, s.scratch, MODEL_SUMS, s.inbox[1], &s.mail[1],
                                           parity, vans, rank);
            parity ^= 1;
        }
        if (rank == 0) {
            Heads product(heads);
            measure(s, p.norm_eps, vans);
            product.run(&s.x[0][0], MODEL_STRIDE, s.scratch, HEAD_SUMS);
            __syncthreads();
            for (int i = threadIdx.x; i < vans * HEADS; i += THREADS) {
                int van = i / HEADS, k = i % HEADS;
                float value = s.scale[van] * total<SPLIT_HEADS>(s.scratch, HEAD_SUMS, van, k) + head_bias[k];
                if (k < N_CHANNELS) {
                    value += s.features[van][k];  // the forecast starts from the held z-scores
                } else if (k < 2 * N_CHANNELS) {
                    value = value < LOG_SCALE_LEAST ? LOG_SCALE_LEAST : value > LOG_SCALE_MOST ? LOG_SCALE_MOST : value;
                }
                p.out[(row + van) * HEADS + k] = value;
            }
        }
        __syncthreads();
    }
}

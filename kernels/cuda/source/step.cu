// One sample of every vehicle of a batch through the whole network, embedding to heads, states updated in place.
//
// A cluster of RANKS blocks takes tiles of up to COLUMNS vehicles, one tile after another. Each of its blocks owns
// OWN of the d_inner channels, with their weights, convolution and selective state; the residual stream is held by
// every block. Twice a layer, behind x_proj and out_proj, the blocks send each other partial sums and add them up.
// RANKS = 1 is one block per tile. With few vehicles many ranks share the weights, which are then the time; with many
// vehicles few do, and the states' bytes are the time.
//
// With TILES_IN_FLIGHT = 2 a block has two teams of warps. While the advancers do nothing but advance the states of one
// tile, the projectors do everything else of the other, so that memory never waits for a product. With one tile in
// flight all threads do both.
#include "step_products.cuh"
#include "step_states.cuh"

constexpr float LOG_SCALE_LEAST = -5.6f, LOG_SCALE_MOST = 3.0f;  // LOG_SCALE_BOUNDS of kernels/reference.py

// Whether what the states' turn and the product behind it read first is asked for long before. Few ranks have no
// registers to spare, and their time is the states'.
constexpr bool ASK_EARLY = TEAMS == 1 && RANKS > 2;

__device__ __forceinline__ float silu(float x) { return x * sigmoid(x); }

__device__ __forceinline__ long long window_at(int slot, int layer, int channel) {
    return (long long)slot * (N_LAYER * HISTORY * D_INNER) + (layer * HISTORY * D_INNER + channel);
}

__device__ __forceinline__ void load_window(float (&window)[AT_ONCE][HISTORY], const Tile& tile, const StepParams& p,
                                            int layer, int rank, int vans, int first) {
#pragma unroll
    for (int k = 0; k < AT_ONCE; ++k) {
        int item = threadIdx.x + (first + k) * PROJECTORS, van = item / OWN, channel = rank * OWN + item % OWN;
        bool valid = van < vans && channel < D_INNER;
        const float* from = p.conv + window_at(tile.slot[valid ? van : 0], layer, channel);
#pragma unroll
        for (int tap = 0; tap < HISTORY; ++tap) window[k][tap] = valid ? from[tap * D_INNER] : 0.0f;
    }
}

// All windows of a tile and layer into the second-level cache, long before they are loaded. Without states that are
// advanced meanwhile it only delays them.
__device__ __forceinline__ void announce_windows(const Tile& tile, const StepParams& p, int layer, int vans) {
    constexpr int FLOATS = HISTORY * D_INNER;
    if (TEAMS > 1 && FLOATS % 4 == 0 && FLOATS > 0 && (int)threadIdx.x < vans) {
        prefetch(p.conv + window_at(tile.slot[threadIdx.x], layer, 0), FLOATS * 4);
    }
}

// What the table says of one channel. Most often all items of a thread are of one, and it is read once.
constexpr bool ONE_CHANNEL = PROJECTORS % OWN == 0;
struct Taps {
    float bias, at[D_CONV];

    __device__ __forceinline__ Taps(const float* table, int c) {
        bias = read_table(table + CONV_BIAS + c);
#pragma unroll
        for (int tap = 0; tap < D_CONV; ++tap) at[tap] = read_table(table + tap * OWN + c);
    }
};
struct StepWeights {
    float bias, at[DT_RANK];

    __device__ __forceinline__ StepWeights(const float* table, int c) {
        bias = read_table(table + DT_BIAS + c);
#pragma unroll
        for (int i = 0; i < DT_RANK; ++i) at[i] = read_table(table + DT_WEIGHT + i * OWN + c);
    }
};

// u = silu(conv(window)), gate = silu(z), and the window moves on by one sample.
__device__ __forceinline__ void convolve(const Shared& s, Tile& tile, const StepParams& p,
                                         const float (&window)[AT_ONCE][HISTORY], const float* table,
                                         const Taps& first_taps, int layer, int rank, int vans, int first) {
#pragma unroll
    for (int k = 0; k < AT_ONCE; ++k) {
        int item = threadIdx.x + (first + k) * PROJECTORS, van = item / OWN, c = item % OWN, channel = rank * OWN + c;
        if (van >= vans) continue;
        float scale = tile.scale[van];
        float newest = scale * total<SPLIT_IN>(s.scratch, WIDE, van, c);
        float z = scale * total<SPLIT_IN>(s.scratch, WIDE, van, OWN + c);
        const Taps taps = ONE_CHANNEL ? first_taps : Taps(table, c);
        float sum = taps.bias + taps.at[HISTORY] * newest;
        if (channel < D_INNER) {
            float* to = p.conv + window_at(tile.slot[van], layer, channel);
#pragma unroll
            for (int tap = 0; tap < HISTORY; ++tap) {
                sum += taps.at[tap] * window[k][tap];
                to[tap * D_INNER] = tap + 1 < HISTORY ? window[k][tap + 1] : newest;
            }
        }
        tile.act[van][c] = silu(sum);
        tile.gate[van][c] = silu(z);
    }
}

__device__ __forceinline__ void step_sizes(Tile& tile, const float* table, const StepWeights& first_weights,
                                           int vans) {
#pragma unroll AT_ONCE
    for (int k = 0; k < ITEMS; ++k) {
        int item = threadIdx.x + k * PROJECTORS, van = item / OWN, c = item % OWN;
        if (van >= vans) continue;
        const StepWeights weights = ONE_CHANNEL ? first_weights : StepWeights(table, c);
        float raw = weights.bias;
#pragma unroll
        for (int i = 0; i < DT_RANK; ++i) raw += weights.at[i] * tile.projected[van][i];
        tile.step[van][c] = softplus(raw);
    }
}

// Where this rank's weights and tables lie.
struct Weights {
    const Half *embedding, *heads, *layers;
    const float *embedding_bias, *head_bias, *tables, *decays;

    __device__ __forceinline__ explicit Weights(const StepParams& p) {
        embedding = p.weights;
        heads = embedding + MODEL / 16 * INPUT_STEPS * FRAGMENT;
        layers = heads + HEAD_TILES * MODEL_STEPS * FRAGMENT;
        embedding_bias = p.tables;
        head_bias = embedding_bias + MODEL;
        tables = head_bias + 16 * HEAD_TILES;
        decays = tables + N_LAYER * RANKS * TABLE;
    }
    __device__ __forceinline__ const Half* in_proj(int layer, int rank) const {
        return layers + ((long long)layer * RANKS + rank) * LAYER_FRAGMENTS * FRAGMENT;
    }
    __device__ __forceinline__ const Half* x_proj(int layer, int rank) const {
        return in_proj(layer, rank) + 2 * OWN / 16 * MODEL_STEPS * FRAGMENT;
    }
    __device__ __forceinline__ const Half* out_proj(int layer, int rank) const {
        return x_proj(layer, rank) + PROJECTED_TILES * OWN_STEPS * FRAGMENT;
    }
    __device__ __forceinline__ const float* table(const Shared& s, int layer, int rank) const {
        return TABLES_SHARED ? s.tables + layer * TABLE : tables + (layer * RANKS + rank) * TABLE;
    }
    __device__ __forceinline__ const float* decay(int layer, int rank) const {
        return decays + (long long)(layer * RANKS + rank) * OWN * STATES;
    }
};

__device__ __forceinline__ void embed(Shared& s, Tile& tile, const StepParams& p, const Weights& w, int nth, int vans) {
    const int row = nth * p.vans;
    Embedding product(w.embedding);
    for (int i = threadIdx.x; i < COLUMNS * FEATURES; i += PROJECTORS) {
        int van = i / FEATURES, k = i % FEATURES;
        tile.features[van][k] = van < vans && k < D_INPUT ? p.features[(row + van) * D_INPUT + k] : 0.0f;
    }
    if (threadIdx.x < COLUMNS) {
        bool valid = (int)threadIdx.x < vans;
        float ratio = valid ? p.ratio[row + threadIdx.x] : 0.0f;
        tile.ratio[threadIdx.x] = {ratio, fminf(ratio, p.max_hold)};
        tile.slot[threadIdx.x] = valid ? (int)p.slots[row + threadIdx.x] : 0;
    }
    meet_projectors();
    announce_windows(tile, p, 0, vans);
    product.run(&tile.features[0][0], FEATURE_STRIDE, s.scratch, MODEL_SUMS);
    meet_projectors();
    for (int i = threadIdx.x; i < COLUMNS * MODEL; i += PROJECTORS) {
        int van = i / MODEL, k = i % MODEL;
        tile.x[van][k] = s.scratch[van * MODEL_SUMS + k] + load_kept(w.embedding_bias + k);
    }
}

__device__ __forceinline__ void write_heads(Shared& s, Tile& tile, const StepParams& p, const Weights& w, int nth,
                                            int vans) {
    Heads product(w.heads);
    measure(tile, p.norm_eps, vans);
    product.run(&tile.x[0][0], MODEL_STRIDE, s.scratch, HEAD_SUMS);
    meet_projectors();
    for (int i = threadIdx.x; i < vans * HEADS; i += PROJECTORS) {
        int van = i / HEADS, k = i % HEADS;
        float value = tile.scale[van] * total<SPLIT_HEADS>(s.scratch, HEAD_SUMS, van, k) + load_kept(w.head_bias + k);
        if (k < N_CHANNELS) {
            value += tile.features[van][k];  // the forecast starts from the held z-scores
        } else if (k < 2 * N_CHANNELS) {
            value = value < LOG_SCALE_LEAST ? LOG_SCALE_LEAST : value > LOG_SCALE_MOST ? LOG_SCALE_MOST : value;
        }
        p.out[((long long)nth * p.vans + van) * HEADS + k] = value;
    }
    meet_projectors();
}

// Everything of a layer before its states' turn; `in_proj` has been asked for.
__device__ __forceinline__ void project_in(Shared& s, Tile& tile, const StepParams& p, const Weights& w, InProj& in_proj,
                                           const Owner& own, Vector (&A)[TOGETHER], int layer, int rank, int vans,
                                           int& uses) {
    const float* table = w.table(s, layer, rank);
    float window[AT_ONCE][HISTORY];
    load_window(window, tile, p, layer, rank, vans, 0);
    in_proj.run(&tile.x[0][0], MODEL_STRIDE, s.scratch, WIDE);
    const Taps taps(table, threadIdx.x % OWN);
    measure(tile, p.norm_eps, vans);
    XProj x_proj(w.x_proj(layer, rank));
    meet_projectors();
    convolve(s, tile, p, window, table, taps, layer, rank, vans, 0);
#pragma unroll 1
    for (int first = AT_ONCE; first < ITEMS; first += AT_ONCE) {
        load_window(window, tile, p, layer, rank, vans, first);
        convolve(s, tile, p, window, table, taps, layer, rank, vans, first);
    }
    meet_projectors();
    x_proj.run(&tile.act[0][0], OWN_STRIDE, s.scratch, PROJECTED_SUMS);
    if (ASK_EARLY) load_decays(A, w.decay(layer, rank), own, 0);
    const StepWeights step_weights(table, threadIdx.x % OWN);
    float* projected = &tile.projected[0][0];
    add_up<SPLIT_PROJECTED, PROJECTED, false>(s, projected, PROJECTED_SUMS, PROJECTED_SUMS, uses, vans, rank);
    step_sizes(tile, table, step_weights, vans);
}

// The states' turn of one tile and layer.
__device__ __forceinline__ void advance(Shared& s, Tile& tile, const StepParams& p, const Weights& w, Advancer& advancer,
                                        Vector (&A)[TOGETHER], int layer, int rank, int vans, int flight) {
    const float* decay = w.decay(layer, rank);
    if (!ASK_EARLY) load_decays(A, decay, advancer.own, 0);
    if (TEAMS == 1) __syncthreads();
    else wait_at(STATES_READY + flight, THREADS);
    advancer.advance(s, tile, p, layer, vans, w.table(s, layer, rank) + SKIP, decay, A);
    if (TEAMS > 1) arrive_at(STATES_DONE + flight, THREADS);
}

// A step is a layer of every tile in flight. Of each tile, first the layer whose states have had their turn is
// finished, then the next is begun.
__device__ __forceinline__ void project(Shared& s, const StepParams& p, const Weights& w, Advancer& advancer, int cluster,
                                        int rank) {
    const int tiles = (p.tiles - cluster + p.clusters - 1) / p.clusters;  // of this cluster
    const int steps = (tiles + TILES_IN_FLIGHT - 1) / TILES_IN_FLIGHT * N_LAYER;
    for (int i = threadIdx.x; TABLES_SHARED && i < N_LAYER * TABLE; i += PROJECTORS) {
        s.tables[i] = load_kept(w.tables + (i / TABLE * RANKS + rank) * TABLE + i % TABLE);
    }
    int uses = 0;
    OutProj out_proj(w.out_proj(0, rank), false);
#pragma unroll 1
    for (int step = 0; step <= steps; ++step) {
        const int layer = step % N_LAYER;
#pragma unroll 1
        for (int flight = 0; flight < TILES_IN_FLIGHT; ++flight) {
            Tile& tile = s.tile[flight];
            int nth = step / N_LAYER * TILES_IN_FLIGHT + flight, before = layer ? nth : nth - TILES_IN_FLIGHT;
            InProj in_proj(w.in_proj(layer, rank), false);
            if (step > 0 && before < tiles) {
                const int index = cluster + before * p.clusters, vans = vans_of(p, index);
                if (!ASK_EARLY) out_proj = OutProj(w.out_proj(layer ? layer - 1 : N_LAYER - 1, rank));
                if (TEAMS == 1) __syncthreads();
                else wait_at(STATES_DONE + flight, THREADS);
                if (layer) announce_windows(tile, p, layer, vans);
                out_proj.run(&tile.act[0][0], OWN_STRIDE, s.scratch, MODEL_SUMS);
                if (layer) in_proj = InProj(w.in_proj(layer, rank));
                add_up<SPLIT_OUT, MODEL, true>(s, &tile.x[0][0], MODEL_STRIDE, MODEL_SUMS, uses, vans, rank);
                if (layer == 0 && rank == 0) write_heads(s, tile, p, w, index, vans);
            }
            if (nth < tiles) {
                const int index = cluster + nth * p.clusters, vans = vans_of(p, index);
                if (layer == 0) {
                    embed(s, tile, p, w, index, vans);
                    if (TEAMS > 1 && nth == 0) arrive_at(FIRST_READ, THREADS);
                    in_proj = InProj(w.in_proj(layer, rank));
                    meet_projectors();
                }
                Vector A[TOGETHER];
                project_in(s, tile, p, w, in_proj, advancer.own, A, layer, rank, vans, uses);
                if (ASK_EARLY) out_proj = OutProj(w.out_proj(layer, rank));
                if (TEAMS == 1) advance(s, tile, p, w, advancer, A, layer, rank, vans, flight);
                else arrive_at(STATES_READY + flight, THREADS);
            }
        }
    }
}

extern "C" __global__ void __cluster_dims__(RANKS, 1, 1) __launch_bounds__(THREADS, 1)
network_step(const __grid_constant__ StepParams p) {
    Shared& s = *reinterpret_cast<Shared*>(block_memory());
    const int rank = blockIdx.x % RANKS, cluster = blockIdx.x / RANKS;
    const Weights w(p);
    if (RANKS > 1 && threadIdx.x < 2) open_mail(&s.mail[threadIdx.x]);
    if (BULK && threadIdx.x < RING * ADVANCER_WARPS) open_mail(&s.fetched[0][0] + threadIdx.x);
    if (RANKS > 1) arrive_cluster();
    __syncthreads();
    Advancer advancer(p, cluster, rank);
    if (TEAMS == 1) advancer.start(s, p);
    if (RANKS > 1) wait_cluster();  // nobody sends before all mail is open
    if (TEAMS == 1 || threadIdx.x < PROJECTORS) {
        project(s, p, w, advancer, cluster, rank);
        return;
    }
    wait_at(FIRST_READ, THREADS);  // the ring would stand in the way of what the first tile needs
    advancer.start(s, p);
#pragma unroll 1
    for (Turn turn{cluster, 0, 0}; turn.exists(p); turn.next(p)) {
        Vector A[TOGETHER];
        advance(s, s.tile[turn.flight], p, w, advancer, A, turn.layer, rank, vans_of(p, turn.tile), turn.flight);
    }
}

// Sizes of the step, and what lies in a block's shared memory. Compile-time: see kernels/cuda/step_plan.py, which also
// checks that all sizes agree.
#pragma once
#include "cluster.cuh"

// Threads 0 to PROJECTORS - 1 do everything but states. With two tiles in flight, ADVANCERS others advance states;
// with one, the same threads do.
constexpr int TEAMS = TILES_IN_FLIGHT > 1 ? 2 : 1;
constexpr int THREADS = TEAMS > 1 ? PROJECTORS + ADVANCERS : PROJECTORS;
constexpr int FIRST_ADVANCER = TEAMS > 1 ? PROJECTORS : 0;
constexpr int WARPS = PROJECTORS / 32, ADVANCER_WARPS = ADVANCERS / 32;
constexpr int TILES = COLUMNS / 8;               // of 8 columns
// Rows that fragments are read from are 16 mod 32 apart, rows of sums 4 mod 8: neither has bank conflicts.
__device__ constexpr int row_stride(int width) { return width % 32 ? width : width + 16; }
constexpr int MODEL_STRIDE = row_stride(MODEL), OWN_STRIDE = row_stride(OWN);
constexpr int FEATURES = 16 * INPUT_STEPS, FEATURE_STRIDE = row_stride(FEATURES);
constexpr int MODEL_SUMS = MODEL + 4, PROJECTED_SUMS = 16 * PROJECTED_TILES + 4, HEAD_SUMS = 16 * HEAD_TILES + 4;
constexpr int WIDE = 2 * OWN + 4;                // u and z side by side
constexpr int MODEL_STEPS = MODEL / 16, OWN_STEPS = OWN / 16;
constexpr int WARP_CHANNELS = 32 / LANES;        // that a warp covers at once
constexpr int PASS = ADVANCERS / LANES;          // channels that all advancers cover at once
constexpr int VANS_AT_ONCE = PASS > OWN ? PASS / OWN : 1;
constexpr int STATES = LANES * VECTOR;           // d_state, padded
constexpr int B_AT = RANK_PADDED, C_AT = RANK_PADDED + STATES, PROJECTED = RANK_PADDED + 2 * STATES;
constexpr int HEADS = 2 * N_CHANNELS + 1;
constexpr int ITEMS = (COLUMNS * OWN + PROJECTORS - 1) / PROJECTORS;  // of (vehicle, channel) per thread
constexpr int AT_ONCE = ITEMS < 4 ? ITEMS : 4;   // of them
constexpr int HISTORY = D_CONV - 1;
// Offsets in the table of one rank and layer.
constexpr int CONV_BIAS = D_CONV * OWN, DT_BIAS = CONV_BIAS + OWN, SKIP = DT_BIAS + OWN, DT_WEIGHT = SKIP + OWN;
constexpr int TABLE = DT_WEIGHT + DT_RANK * OWN;
constexpr int LAYER_FRAGMENTS = 2 * OWN / 16 * MODEL_STEPS + PROJECTED_TILES * OWN_STEPS + MODEL / 16 * OWN_STEPS;
static_assert(OWN % 16 == 0 && MODEL % 16 == 0 && ADVANCERS % LANES == 0 && PROJECTED % 4 == 0, "sizes must divide");
static_assert(!BULK || (VANS_AT_ONCE == 1 && VECTOR == 4), "bulk copies are of whole channels in sixteens of bytes");

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

struct Tile {                            // in flight
    alignas(16) float x[COLUMNS][MODEL_STRIDE];
    float features[COLUMNS][FEATURE_STRIDE];
    float act[COLUMNS][OWN_STRIDE];      // u, then the gated y
    float gate[COLUMNS][OWN_STRIDE];     // silu(z)
    float projected[COLUMNS][PROJECTED_SUMS];
    float step[COLUMNS][OWN];            // softplus(dt)
    Pack<float, 2> ratio[COLUMNS];       // elapsed over nominal time, and the same up to the longest hold
    float scale[COLUMNS];                // 1 / rms(x)
    int slot[COLUMNS];
};

struct Shared {
    Tile tile[TILES_IN_FLIGHT];
    alignas(16) float scratch[SCRATCH];  // unfinished sums
    float inbox[2][INBOX];               // other ranks' sums, in turns
    float tables[TABLES_SHARED ? N_LAYER * TABLE : 4];
    Mail mail[2];                        // of the inboxes
    Mail fetched[BULK ? RING : 1][BULK ? ADVANCER_WARPS : 1];
    alignas(16) Vector ring[RING][ADVANCER_WARPS][TOGETHER * 32];
};
static_assert(sizeof(Shared) == SHARED_BYTES && sizeof(StepParams) == PARAMS_BYTES, "differs from the caller's");

// The barriers of a block: one of the projectors, and for each tile in flight one where the states' turn starts and one
// where it ends. Whoever goes on after a turn only arrives; whoever needs what the other team wrote waits.
constexpr int PROJECTORS_MEET = 1, FIRST_READ = 2, STATES_READY = 3, STATES_DONE = STATES_READY + TILES_IN_FLIGHT;

__device__ __forceinline__ void meet_projectors() {
    if (TEAMS == 1) __syncthreads();
    else wait_at(PROJECTORS_MEET, PROJECTORS);
}

// Of a table, wherever it lies.
__device__ __forceinline__ float read_table(const float* from) { return TABLES_SHARED ? *from : load_kept(from); }

__device__ __forceinline__ int vans_of(const StepParams& p, int tile) {
    long long left = p.rows - (long long)tile * p.vans;
    return left < p.vans ? (int)left : p.vans;
}

// What a team of a block does one after another: layer by layer of the tiles in flight in turns, then the next tiles.
struct Turn {
    int tile, layer, flight;

    __device__ __forceinline__ bool exists(const StepParams& p) const { return tile < p.tiles; }
    __device__ __forceinline__ void next(const StepParams& p) {
        if (flight + 1 < TILES_IN_FLIGHT && tile + p.clusters < p.tiles) {
            ++flight;
            tile += p.clusters;
            return;
        }
        tile -= flight * p.clusters;
        flight = 0;
        if (++layer < N_LAYER) return;
        layer = 0;
        tile += TILES_IN_FLIGHT * p.clusters;
    }
};

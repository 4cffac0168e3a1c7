// The selective states: fetched ahead of their use, advanced in place.
//
// States stream through a ring in shared memory, RING slots ahead of their use, across layers and tiles: each warp
// copies what it alone will read, advance and write back, so no barrier is needed. A slot holds, for one vehicle (or
// VANS_AT_ONCE of them, where a rank's channels do not fill the team), TOGETHER channels of each thread:
//
//     thread = (vehicle of the step, channel, state lane), lanes of one channel side by side, VECTOR states each
//
// A warp's channels of a slot are neighbours, so that their states are one run of memory: with BULK one thread asks the
// copy engine for it, else each thread copies its own.
#pragma once
#include "step_layout.cuh"

struct Owner {  // of this thread's states
    int thread, warp;        // of the advancers
    int lane, channel, van;  // state lane; first channel of the rank's; vehicle of the step, VANS_AT_ONCE if idle

    __device__ __forceinline__ Owner() {
        thread = (int)threadIdx.x - FIRST_ADVANCER;
        warp = thread / 32;
        lane = thread % LANES;
        int index = thread / LANES;
        channel = VANS_AT_ONCE > 1 ? index % OWN : index % WARP_CHANNELS + warp * TOGETHER * WARP_CHANNELS;
        van = VANS_AT_ONCE > 1 ? index / OWN : 0;
    }
    __device__ __forceinline__ bool idle() const { return van >= VANS_AT_ONCE; }
    // Whether a channel exists, and its states of this lane.
    __device__ __forceinline__ bool has(int rank, int c) const {
        constexpr bool FILLED = VANS_AT_ONCE > 1 || (PASS <= OWN && OWN % (PASS * TOGETHER) == 0);
        constexpr bool ALL = FILLED && RANKS * OWN == D_INNER && STATES == D_STATE;
        return ALL || (c < OWN && rank * OWN + c < D_INNER && lane * VECTOR < D_STATE);
    }
    __device__ __forceinline__ int nth(int part, int j) const {
        return channel + part * TOGETHER * PASS + j * WARP_CHANNELS;
    }
    // Where in a slot of this warp.
    __device__ __forceinline__ int place(int j) const {
        return (thread % 32 / LANES + j * WARP_CHANNELS) * (BULK ? D_STATE / VECTOR : LANES) + lane;
    }
};

__device__ __forceinline__ long long state_at(int slot, int layer, int channel, int lane) {
    return (long long)slot * (N_LAYER * D_INNER * D_STATE) + ((layer * D_INNER + channel) * D_STATE + lane * VECTOR);
}

// Bytes of the states of up to `most` channels from c on, as far as the rank has them.
__device__ __forceinline__ int state_bytes(int rank, int c, int most) {
    int here = D_INNER - rank * OWN < OWN ? D_INNER - rank * OWN : OWN;
    int count = here - c < most ? here - c : most;
    return count > 0 ? count * D_STATE * 4 : 0;
}

// What is fetched next. The slot number is read one step ahead of its use.
struct Cursor {
    Turn turn;
    int part, first, vans, place, slot;

    __device__ __forceinline__ Cursor(const StepParams& p, const Owner& own, int cluster)
        : turn{cluster, 0, 0}, part(0), first(0), vans(vans_of(p, cluster)), place(0), slot(-1) {
        read_slot(p, own);
    }
    __device__ __forceinline__ void read_slot(const StepParams& p, const Owner& own) {
        int van = first + own.van;
        if (turn.exists(p) && !own.idle() && van < vans) slot = (int)p.slots[turn.tile * p.vans + van];
        else slot = -1;
    }
    __device__ __forceinline__ void next(const StepParams& p, const Owner& own) {
        if (++place == RING) place = 0;
        first += VANS_AT_ONCE;
        if (first >= vans && turn.exists(p)) {
            first = 0;
            if (++part == PARTS) {
                part = 0;
                turn.next(p);
                vans = turn.exists(p) ? vans_of(p, turn.tile) : 0;
            }
        }
        read_slot(p, own);
    }
    // Into the ring.
    __device__ __forceinline__ void fetch(Shared& s, const StepParams& p, const Owner& own, int rank, Policy policy) {
        if (slot >= 0) {
            const float* from = p.ssm + state_at(slot, turn.layer, rank * OWN + own.nth(part, 0), own.lane);
            Vector* to = s.ring[place][own.warp];
#if BULK
            if (own.thread % 32 == 0) {
                int bytes = state_bytes(rank, own.nth(part, 0), TOGETHER * WARP_CHANNELS);
                expect_bytes(&s.fetched[place][own.warp], bytes);
                if (bytes) copy_bulk(to, from, bytes, &s.fetched[place][own.warp], policy);
            }
#else
#pragma unroll
            for (int j = 0; j < TOGETHER; ++j) {
                if (!own.has(rank, own.nth(part, j))) continue;
                copy_state(to + own.place(j), from + j * WARP_CHANNELS * D_STATE, policy);
            }
#endif
        }
        if (!BULK) commit_copies();
        next(p, own);
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
        if (c < OWN) A[j] = load_kept(reinterpret_cast<const Vector*>(from + c * STATES + own.lane * VECTOR));
    }
}

// What one advancer keeps from turn to turn.
struct Advancer {
    const Owner own;
    const int rank;
    const Policy fetched, stored;  // one for both changes the compiler's order; this is the code that was measured
    Cursor ring;
    int place, parity;

    __device__ __forceinline__ Advancer(const StepParams& p, int cluster, int rank)
        : rank(rank), fetched(state_policy<KEPT>()), stored(state_policy<KEPT>()), ring(p, own, cluster), place(0),
          parity(0) {}

    __device__ __forceinline__ void start(Shared& s, const StepParams& p) {
#pragma unroll 1
        for (int i = 0; i < RING; ++i) ring.fetch(s, p, own, rank, fetched);
    }

    // h = exp(dt A) h + dt_in u B; act = (h . C + D u) * silu(z), for the rank's channels of all vehicles of the tile.
    // `next`: the first part's decays.
    __device__ __forceinline__ void advance(Shared& s, Tile& tile, const StepParams& p, int layer, int vans,
                                            const float* skip, const float* decay, Vector (&next)[TOGETHER]) {
#pragma unroll 1
        for (int part = 0; part < PARTS; ++part) {
            Vector A[TOGETHER];
#pragma unroll
            for (int j = 0; j < TOGETHER; ++j) A[j] = next[j];
            if (part + 1 < PARTS) load_decays(next, decay, own, part + 1);
#pragma unroll 1
            for (int first = 0; first < vans; first += VANS_AT_ONCE) {
                int van = first + own.van;
                bool live = VANS_AT_ONCE == 1 || (!own.idle() && van < vans);
                if (!live) van = 0;
                float sums[TOGETHER], dt[TOGETHER], input[TOGETHER];
                const Vector* lanes = reinterpret_cast<const Vector*>(tile.projected[van]) + own.lane;
                Vector B = load_shared(lanes + B_AT / VECTOR), C = load_shared(lanes + C_AT / VECTOR);
                Pack<float, 2> ratio = tile.ratio[van];
                float* to = p.ssm + state_at(tile.slot[van], layer, rank * OWN + own.nth(part, 0), own.lane);
#pragma unroll
                for (int j = 0; j < TOGETHER; ++j) {
                    int c = own.nth(part, j);
                    bool has = live && own.has(rank, c);
                    float step = has ? tile.step[van][c] : 0.0f;
                    dt[j] = step * ratio.at[0];
                    input[j] = has ? step * ratio.at[1] * tile.act[van][c] : 0.0f;
                }
#if BULK
                wait_for_mail(&s.fetched[place][own.warp], parity);
#else
                wait_for_older_copies<RING - 1>();
#endif
#pragma unroll
                for (int j = 0; j < TOGETHER; ++j) {
                    sums[j] = 0.0f;
                    if (live && own.has(rank, own.nth(part, j))) {
                        Vector h = load_shared(s.ring[place][own.warp] + own.place(j));
#pragma unroll
                        for (int i = 0; i < VECTOR; ++i) {
                            h.at[i] = exp2_fast(dt[j] * A[j].at[i]) * h.at[i] + input[j] * B.at[i];
                            sums[j] += h.at[i] * C.at[i];
                        }
                        store_state(to + j * WARP_CHANNELS * D_STATE, h, stored);
                    }
                }
                if (++place == RING) {
                    place = 0;
                    parity ^= 1;
                }
                if (BULK) sync_warp();
                ring.fetch(s, p, own, rank, fetched);  // into the place that was just read
                int j = 0;
                add_lanes<TOGETHER, LANES>(sums, own.lane, j);
                int c = own.nth(part, j);
                if (live && own.lane % (LANES / TOGETHER) == 0 && c < OWN && rank * OWN + c < D_INNER) {
                    float u = tile.act[van][c];
                    tile.act[van][c] = (sums[0] + read_table(skip + c) * u) * tile.gate[van][c];
                }
            }
        }
    }
};

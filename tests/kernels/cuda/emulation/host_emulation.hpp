// Runs a CUDA kernel's source on the host, block by block: every thread is a fiber that yields at barriers and exchanges.
//
// Shared memory starts as NaN, threads run in random order between two meeting points, and asynchronous copies arrive
// only when they are waited for: a missing barrier or wait shows as a wrong result.
#pragma once
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __shared__
#define __grid_constant__
#define __forceinline__ inline
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

struct Index {
    int x;
};
inline Index threadIdx, blockIdx, blockDim;
alignas(16) inline unsigned char shared_memory[1 << 18];
#define memory shared_memory

namespace emulation {
enum class Wait { none, barrier, warp, done };

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    Wait wait = Wait::none;
    int exchanges = 0;
    struct Copy {
        void* to;
        const void* from;
        int bytes;
    };
    std::vector<Copy> copies;
};
inline std::vector<Fiber> fibers;
inline std::vector<float> slots;  // two values per thread, taken in turns
inline ucontext_t scheduler;
inline int current;
inline void (*body)();

inline void yield(Wait wait) {
    int self = current;
    fibers[self].wait = wait;
    swapcontext(&fibers[self].context, &scheduler);
}

inline void entry() {
    body();
    fibers[current].wait = Wait::done;
    swapcontext(&fibers[current].context, &scheduler);
}

inline bool all_wait(int first, int last, Wait wait) {
    for (int i = first; i < last; ++i)
        if (fibers[i].wait != wait) return false;
    return true;
}

// Returns false if some threads wait for others that never come.
inline bool run_block(int threads, std::mt19937& random) {
    std::memset(shared_memory, 0xff, sizeof(shared_memory));
    fibers.clear();
    fibers.resize(threads);
    slots.assign(2 * threads, NAN);
    for (auto& fiber : fibers) {
        constexpr int BYTES = 1 << 16;
        fiber.stack = std::make_unique<char[]>(BYTES);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = BYTES;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, entry, 0);
    }
    std::vector<int> warps((threads + 31) / 32);
    for (size_t i = 0; i < warps.size(); ++i) warps[i] = i;
    for (;;) {
        bool moved = false;
        std::shuffle(warps.begin(), warps.end(), random);
        for (int warp : warps) {
            int first = 32 * warp, last = std::min(first + 32, threads);
            do {
                int start = random() % (last - first);
                for (int i = 0; i < last - first; ++i) {
                    int thread = first + (start + i) % (last - first);
                    if (fibers[thread].wait != Wait::none) continue;
                    current = threadIdx.x = thread;
                    swapcontext(&scheduler, &fibers[thread].context);
                    moved = true;
                }
                if (!all_wait(first, last, Wait::warp)) break;
                for (int i = first; i < last; ++i) fibers[i].wait = Wait::none;
            } while (true);
        }
        if (all_wait(0, threads, Wait::done)) return true;
        if (all_wait(0, threads, Wait::barrier)) {
            for (auto& fiber : fibers) fiber.wait = Wait::none;
        } else if (!moved) {
            return false;
        }
    }
}
}  // namespace emulation

inline void __syncthreads() { emulation::yield(emulation::Wait::barrier); }

inline float exchange(float value, int lane_mask) {
    using namespace emulation;
    int self = current, turn = fibers[self].exchanges++ % 2;
    slots[2 * self + turn] = value;
    yield(Wait::warp);
    return slots[2 * (self ^ lane_mask) + turn];
}

inline float bits_to_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
inline unsigned short round_to_bfloat16(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    if (std::isnan(x)) return 0x7fff;
    return (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float exp2_fast(float x) { return std::exp2(x); }
inline float reciprocal(float x) { return 1.0f / x; }

inline void copy_async(void* to, const void* from, int bytes, bool valid) {
    if ((uintptr_t)to % bytes || (uintptr_t)from % bytes) abort();  // misaligned
    emulation::fibers[emulation::current].copies.push_back({to, valid ? from : nullptr, bytes});
}
inline void copy_async_16(void* to, const void* from, bool valid) { copy_async(to, from, 16, valid); }
inline void copy_async_4(void* to, const void* from, bool valid) { copy_async(to, from, 4, valid); }
inline void wait_for_copies() {
    auto& copies = emulation::fibers[emulation::current].copies;
    for (auto& copy : copies) {
        if (copy.from) std::memcpy(copy.to, copy.from, copy.bytes);
        else std::memset(copy.to, 0, copy.bytes);
    }
    copies.clear();
}

template <typename T, int N>
struct Pack;
inline void add_global(float* to, Pack<float, 4> v);

#define EMULATE(kernel, Params)                                                                    \
    static const Params* emulated_params_##kernel;                                                 \
    extern "C" int emulate_##kernel(const Params* params, int blocks, int threads, unsigned seed) { \
        std::mt19937 random(seed);                                                                 \
        emulated_params_##kernel = params;                                                         \
        emulation::body = [] { kernel(*emulated_params_##kernel); };                               \
        blockDim.x = threads;                                                                      \
        for (int block = 0; block < blocks; ++block) {                                             \
            blockIdx.x = block;                                                                    \
            if (!emulation::run_block(threads, random)) return 1;                                  \
        }                                                                                          \
        return 0;                                                                                  \
    }

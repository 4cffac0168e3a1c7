// Runs a CUDA kernel's source on the host, cluster by cluster: every thread is a fiber that yields at barriers and
// exchanges. A cluster is one block unless the kernel says otherwise.
//
// Shared memory starts as NaN, threads run in random order between two meeting points, some warps are held back as long as
// others can go on, and asynchronous copies arrive only when they are waited for: a missing barrier or wait shows as a
// wrong result. Barriers of some of a block's warps (wait_at, arrive_at) count threads, as the device does.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
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
#define __cluster_dims__(...)

struct Index {
    int x;
};
inline Index threadIdx, blockIdx, blockDim;
constexpr int MOST_SHARED_BYTES = 1 << 18, MOST_BLOCKS = 16;
alignas(16) inline unsigned char shared_memory[MOST_BLOCKS * MOST_SHARED_BYTES];
#define memory shared_memory

namespace emulation {
enum class Wait { none, barrier, warp, cluster, mail, named, done };

// What blocks have sent each other under one count; see `Mail` in cluster.cuh.
struct Letters {
    struct Letter {
        void* to;
        float values[4];
    };
    std::vector<Letter> late;  // those that are not delivered before all are there
    struct Run {
        void* to;
        const void* from;
        int bytes;
    };
    std::vector<Run> runs;  // of the copy engine, that are not made before somebody waits
    long missing = 0;
    bool expected = false;
    int parity = 0;
};

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    Wait wait = Wait::none;
    int exchanges = 0;
    Letters* letters = nullptr;  // waited for
    int parity = 0;
    struct Named* barrier = nullptr;  // waited at
    int meetings = 0;                 // it had seen by then
    struct Copy {
        void* to;
        const void* from;
        int bytes, group;
    };
    std::vector<Copy> copies;
    int groups = 0;  // committed
};
// A barrier of some of a block's warps.
struct Named {
    int threads = 0, arrived = 0, meetings = 0;
};
struct Fragments {
    float a[4], b[2];
};
inline std::vector<Fiber> fibers;
inline std::map<const void*, Letters> mail;
inline std::map<std::pair<int, int>, Named> named;  // by block and number
inline std::mt19937* random_source;
inline std::vector<Fragments> fragments;  // two of each thread, taken in turns
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

// Runs the blocks of a cluster together. Returns false if some threads wait for others that never come.
inline bool run_cluster(int first_block, int blocks, int threads, std::mt19937& random) {
    std::memset(shared_memory, 0xff, size_t(blocks) * MOST_SHARED_BYTES);
    const int all = blocks * threads;
    fibers.clear();
    fibers.resize(all);
    slots.assign(2 * all, NAN);
    fragments.assign(2 * all, Fragments());
    mail.clear();
    named.clear();
    random_source = &random;
    for (auto& fiber : fibers) {
        constexpr int BYTES = 1 << 16;
        fiber.stack.reset(new char[BYTES]);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = BYTES;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, entry, 0);
    }
    struct Warp {
        int first, last;  // threads of the cluster
    };
    std::vector<Warp> warps;
    for (int block = 0; block < blocks; ++block)
        for (int thread = 0; thread < threads; thread += 32)
            warps.push_back({block * threads + thread, block * threads + std::min(thread + 32, threads)});
    Warp held{0, 0};  // back until nothing else can go on: some of a block's threads
    for (;;) {
        bool moved = false;
        std::shuffle(warps.begin(), warps.end(), random);
        for (auto [first, last] : warps) {
            if (first >= held.first && first < held.last) continue;
            do {
                int start = random() % (last - first);
                for (int i = 0; i < last - first; ++i) {
                    int thread = first + (start + i) % (last - first);
                    if (fibers[thread].wait != Wait::none) continue;
                    current = thread;
                    threadIdx.x = thread % threads;
                    blockIdx.x = first_block + thread / threads;
                    swapcontext(&scheduler, &fibers[thread].context);
                    moved = true;
                }
                if (!all_wait(first, last, Wait::warp)) break;
                for (int i = first; i < last; ++i) fibers[i].wait = Wait::none;
            } while (true);
        }
        if (all_wait(0, all, Wait::done)) {
            for (auto& [at, barrier] : named)
                if (barrier.arrived) return false;
            return true;
        }
        bool released = false;
        for (int from = 0; from < all; from += threads) {
            if (!all_wait(from, from + threads, Wait::barrier)) continue;
            for (int i = from; i < from + threads; ++i) fibers[i].wait = Wait::none;
            released = true;
        }
        for (auto& fiber : fibers) {
            if (fiber.wait != Wait::mail || fiber.letters->parity == fiber.parity) continue;
            fiber.wait = Wait::none;
            released = true;
        }
        for (auto& fiber : fibers) {
            if (fiber.wait != Wait::named || fiber.barrier->meetings == fiber.meetings) continue;
            fiber.wait = Wait::none;
            released = true;
        }
        if (all_wait(0, all, Wait::cluster)) {
            for (auto& fiber : fibers) fiber.wait = Wait::none;
            released = true;
        }
        if (released || moved) {
            if (held.first != held.last || random() % 4) continue;
            int block = random() % blocks * threads, first = random() % threads / 32 * 32;
            held = {block + first, block + std::min(threads, first + 32 * int(1 + random() % (threads / 32)))};
        } else {
            if (held.first == held.last) return false;
            held = {0, 0};
        }
    }
}
}  // namespace emulation

inline void __syncthreads() { emulation::yield(emulation::Wait::barrier); }

// Counts this thread in; whoever completes the number starts the barrier anew.
inline emulation::Named& count_at(int barrier, int threads) {
    using namespace emulation;
    if (barrier < 1 || barrier > 15 || threads % 32) abort();  // no such barrier
    auto& at = named[{current / blockDim.x, barrier}];
    if (at.arrived > 0 && at.threads != threads) abort();  // threads disagree
    at.threads = threads;
    if (++at.arrived == threads) {
        at.arrived = 0;
        ++at.meetings;
    }
    return at;
}
inline void arrive_at(int barrier, int threads) { count_at(barrier, threads); }
inline void wait_at(int barrier, int threads) {
    using namespace emulation;
    auto& own = fibers[current];
    own.barrier = &named[{current / blockDim.x, barrier}];
    own.meetings = own.barrier->meetings;
    count_at(barrier, threads);
    yield(Wait::named);
}

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
    auto& own = emulation::fibers[emulation::current];
    own.copies.push_back({to, valid ? from : nullptr, bytes, own.groups});
}
inline void copy_async_16(void* to, const void* from, bool valid) { copy_async(to, from, 16, valid); }
inline void copy_async_4(void* to, const void* from, bool valid) { copy_async(to, from, 4, valid); }
inline void finish_copies(int groups) {
    auto& copies = emulation::fibers[emulation::current].copies;
    size_t done = 0;
    for (; done < copies.size() && copies[done].group < groups; ++done) {
        auto& copy = copies[done];
        if (copy.from) std::memcpy(copy.to, copy.from, copy.bytes);
        else std::memset(copy.to, 0, copy.bytes);
    }
    copies.erase(copies.begin(), copies.begin() + done);
}
inline void commit_copies() { ++emulation::fibers[emulation::current].groups; }
template <int PENDING>
inline void wait_for_older_copies() { finish_copies(emulation::fibers[emulation::current].groups - PENDING); }
inline void wait_for_copies() { finish_copies(emulation::fibers[emulation::current].groups + 1); }

inline unsigned char* block_memory() {
    return shared_memory + size_t(emulation::current / blockDim.x) * MOST_SHARED_BYTES;
}
inline void sync_warp() { emulation::yield(emulation::Wait::warp); }
inline void arrive_cluster() {}
inline void wait_cluster() { emulation::yield(emulation::Wait::cluster); }
inline float inverse_root(float x) { return 1.0f / std::sqrt(x); }
template <typename T>
inline T* remote_address(T* own, int rank) {
    auto offset = (unsigned char*)own - block_memory();
    if (offset < 0 || offset >= MOST_SHARED_BYTES) abort();  // not in shared memory
    return (T*)(shared_memory + size_t(rank) * MOST_SHARED_BYTES + offset);
}

typedef unsigned long long Mail;
inline void open_mail(Mail* mail) {
    *mail = 0;
    emulation::mail[mail] = {};
}
inline void count_mail(emulation::Letters& letters, long bytes) {
    letters.missing += bytes;
    if (!letters.expected || letters.missing != 0) return;
    for (auto& letter : letters.late) std::memcpy(letter.to, letter.values, 16);
    letters.late.clear();
    letters.expected = false;
    letters.parity ^= 1;
}
inline void expect_bytes(Mail* mail, int bytes) {
    auto& letters = emulation::mail.at(mail);
    if (letters.expected) abort();  // twice
    letters.expected = true;
    count_mail(letters, bytes);
}
inline void send_bytes(void* own, Mail* own_mail, int rank, const float* values) {
    auto& letters = emulation::mail.at(remote_address(own_mail, rank));
    void* to = remote_address(own, rank);
    if ((uintptr_t)to % 16) abort();  // misaligned
    if ((*emulation::random_source)() % 2) {
        letters.late.push_back({to, {values[0], values[1], values[2], values[3]}});
    } else {
        std::memcpy(to, values, 16);
    }
    count_mail(letters, -16);
}
inline void make_runs(emulation::Letters& letters) {
    auto runs = std::move(letters.runs);
    letters.runs.clear();
    for (auto& run : runs) {
        std::memcpy(run.to, run.from, run.bytes);
        count_mail(letters, -run.bytes);
    }
}
inline void copy_bulk(void* to, const float* from, int bytes, Mail* mail, int) {
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16 || bytes % 16 || bytes <= 0) abort();  // misaligned
    auto& letters = emulation::mail.at(mail);
    letters.runs.push_back({to, from, bytes});
    if ((*emulation::random_source)() % 2) make_runs(letters);
}
inline void prefetch(const float* from, int bytes) {
    if ((uintptr_t)from % 16 || bytes % 16 || bytes <= 0) abort();  // misaligned
}
inline void wait_for_mail(Mail* mail, int parity) {
    using namespace emulation;
    make_runs(emulation::mail.at(mail));
    fibers[current].letters = &emulation::mail.at(mail);
    fibers[current].parity = parity;
    if (fibers[current].letters->parity == parity) yield(Wait::mail);
}

inline float keep_tf32(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    return bits_to_float(bits & ~0x1fffu);
}
inline float round_to_tf32(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    return bits_to_float((bits + 0x1000u) & ~0x1fffu);
}
inline float cut_to_tf32(float x) { return keep_tf32(x); }
inline void multiply_add(float (&d)[4], const float (&a)[4], const float* b) {
    using namespace emulation;
    int self = current, turn = fibers[self].exchanges++ % 2, warp = self / 32 * 32;
    auto& own = fragments[2 * self + turn];
    for (int i = 0; i < 4; ++i) own.a[i] = keep_tf32(a[i]);
    for (int i = 0; i < 2; ++i) own.b[i] = keep_tf32(b[i]);
    yield(Wait::warp);
    int g = (self - warp) / 4, t = self % 4;
    for (int i = 0; i < 4; ++i) {
        int row = g, column = 2 * t + i % 2;
        for (int k = 0; k < 8; ++k) {
            auto& left = fragments[2 * (warp + 4 * row + k % 4) + turn];
            auto& right = fragments[2 * (warp + 4 * column + k % 4) + turn];
            d[i] += left.a[i / 2 + 2 * (k / 4)] * right.b[k / 4];
        }
    }
}

template <typename T, int N>
struct Pack;
inline void add_global(float* to, Pack<float, 4> v);

#define EMULATE_CLUSTERS(kernel, Params, cluster)                                                  \
    static const Params* emulated_params_##kernel;                                                 \
    extern "C" int emulate_##kernel(const Params* params, int blocks, int threads, unsigned seed) { \
        std::mt19937 random(seed);                                                                 \
        emulated_params_##kernel = params;                                                         \
        emulation::body = [] { kernel(*emulated_params_##kernel); };                               \
        blockDim.x = threads;                                                                      \
        for (int block = 0; block < blocks; block += cluster) {                                    \
            if (!emulation::run_cluster(block, cluster, threads, random)) return 1;                \
        }                                                                                          \
        return 0;                                                                                  \
    }
#define EMULATE(kernel, Params) EMULATE_CLUSTERS(kernel, Params, 1)

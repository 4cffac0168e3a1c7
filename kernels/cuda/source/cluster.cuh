// Blocks of a cluster that read and write each other's shared memory, and matrix products of a warp.
#pragma once
#include "element.cuh"

#ifndef EMBERWATCH_HOST
extern __shared__ __align__(16) unsigned char dynamic_shared_memory[];

__device__ __forceinline__ unsigned char* block_memory() { return dynamic_shared_memory; }

__device__ __forceinline__ void sync_warp() { __syncwarp(); }

// A barrier of every thread of every block of the cluster, in two halves; what was written to any block's shared memory
// before the first is seen after the second.
__device__ __forceinline__ void arrive_cluster() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ __forceinline__ void wait_cluster() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// 1 / sqrt(x), relative error 2^-22.
__device__ __forceinline__ float inverse_root(float x) {
    float y;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// A barrier of some of a block's warps, `threads` of them in all. Whoever arrives does not wait; what it wrote to
// shared memory before is seen by those who do.
__device__ __forceinline__ void wait_at(int barrier, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ __forceinline__ void arrive_at(int barrier, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// Address of `own`, which lies in this block's shared memory, in that of the block `rank`.
__device__ __forceinline__ unsigned remote_address(const void* own, int rank) {
    unsigned address;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"((unsigned)__cvta_generic_to_shared(own)), "r"(rank));
    return address;
}

// Counts the bytes that other blocks have sent to this one. Its parity changes when all that are expected are there.
typedef unsigned long long Mail;

// By one thread, before a barrier of the cluster.
__device__ __forceinline__ void open_mail(Mail* mail) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"((unsigned)__cvta_generic_to_shared(mail)) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// By one thread, once per parity; bytes may have come before.
__device__ __forceinline__ void expect_bytes(Mail* mail, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"((unsigned)__cvta_generic_to_shared(mail)),
                 "r"(bytes)
                 : "memory");
}

// To where `own` lies in the block `rank`, counted there.
__device__ __forceinline__ void send(float* own, Mail* mail, int rank, Pack<float, 4> v) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                     remote_address(own, rank)),
                 "f"(v.at[0]), "f"(v.at[1]), "f"(v.at[2]), "f"(v.at[3]), "r"(remote_address(mail, rank))
                 : "memory");
}

// Until all bytes of this parity are here, for this thread to read. Not with the order of a cluster: for that the whole
// first-level cache would be dropped, and what comes by mail lies in shared memory.
__device__ __forceinline__ void wait_for_mail(Mail* mail, int parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}\n" ::"r"((unsigned)__cvta_generic_to_shared(mail)),
        "r"(parity)
        : "memory");
}

// What every block reads again and again: the second-level cache keeps it before the states that stream through.
constexpr unsigned long long EVICT_LAST = 0x14F0000000000000;  // as createpolicy makes it
__device__ __forceinline__ float load_kept(const float* from) {
    float v;
    asm("ld.global.nc.L2::cache_hint.f32 %0, [%1], %2;" : "=f"(v) : "l"(from), "l"(EVICT_LAST));
    return v;
}
__device__ __forceinline__ Pack<float, 1> load_kept(const Pack<float, 1>* from) { return {load_kept(from->at)}; }
__device__ __forceinline__ Pack<float, 4> load_kept(const Pack<float, 4>* from) {
    Pack<float, 4> v;
    asm("ld.global.nc.L2::cache_hint.v4.f32 {%0, %1, %2, %3}, [%4], %5;"
        : "=f"(v.at[0]), "=f"(v.at[1]), "=f"(v.at[2]), "=f"(v.at[3])
        : "l"(from), "l"(EVICT_LAST));
    return v;
}

// Four weights, if valid, else what `to` held. In place, and in order with the products: a copy of the registers would
// wait for the load.
__device__ __forceinline__ void load_weights(Pack<float, 4>& to, const Pack<float, 4>* from, bool valid) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %5, 0; "
                 "@p ld.global.nc.L1::no_allocate.L2::cache_hint.v4.f32 {%0, %1, %2, %3}, [%4], %6;}"
                 : "+f"(to.at[0]), "+f"(to.at[1]), "+f"(to.at[2]), "+f"(to.at[3])
                 : "l"(from), "r"((int)valid), "l"(EVICT_LAST));
}
__device__ __forceinline__ void load_weights(Pack<Bfloat16, 4>& to, const Pack<Bfloat16, 4>* from, bool valid) {
    unsigned(&words)[2] = reinterpret_cast<unsigned(&)[2]>(to);
    asm volatile("{.reg .pred p; setp.ne.b32 p, %3, 0; "
                 "@p ld.global.nc.L1::no_allocate.L2::cache_hint.v2.b32 {%0, %1}, [%2], %4;}"
                 : "+r"(words[0]), "+r"(words[1])
                 : "l"(from), "r"((int)valid), "l"(EVICT_LAST));
}

// One instruction each: in C++ the compiler makes four of them. Volatile, so that they stay in order with the copies.
__device__ __forceinline__ Pack<float, 4> load_shared(const Pack<float, 4>* from) {
    Pack<float, 4> v;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.at[0]), "=f"(v.at[1]), "=f"(v.at[2]), "=f"(v.at[3])
                 : "r"((unsigned)__cvta_generic_to_shared(from))
                 : "memory");
    return v;
}
// What the second-level cache does with states: drops them first, but for PERCENT of them, which it keeps.
typedef unsigned long long Policy;
template <int PERCENT>
__device__ __forceinline__ Policy state_policy() {
    Policy policy;
    if (PERCENT == 0) asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    else if (PERCENT < 0) asm("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
    else asm("createpolicy.fractional.L2::evict_last.L2::evict_first.b64 %0, %1;" : "=l"(policy) : "f"(PERCENT / 100.0f));
    return policy;
}

__device__ __forceinline__ void store_state(float* to, Pack<float, 4> v, Policy policy) {
    asm volatile("st.global.L2::cache_hint.v4.f32 [%0], {%1, %2, %3, %4}, %5;" ::"l"(to), "f"(v.at[0]), "f"(v.at[1]),
                 "f"(v.at[2]), "f"(v.at[3]), "l"(policy)
                 : "memory");
}
__device__ __forceinline__ void store_state(float* to, Pack<float, 1> v, Policy) { *to = v.at[0]; }
__device__ __forceinline__ void copy_state(Pack<float, 4>* to, const float* from, Policy policy) {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(
                     (unsigned)__cvta_generic_to_shared(to)),
                 "l"(from), "l"(policy)
                 : "memory");
}
// A run of memory, in sixteens of bytes, by the copy engine; counted as mail. By one thread.
__device__ __forceinline__ void copy_bulk(void* to, const float* from, int bytes, Mail* mail, Policy policy) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
            (unsigned)__cvta_generic_to_shared(to)),
        "l"(from), "r"(bytes), "r"((unsigned)__cvta_generic_to_shared(mail)), "l"(policy)
        : "memory");
}
// A run of memory, in sixteens of bytes, into the second-level cache.
__device__ __forceinline__ void prefetch(const float* from, int bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_state(Pack<float, 1>* to, const float* from, Policy) { copy_async_4(to, from, true); }
__device__ __forceinline__ Pack<float, 1> load_shared(const Pack<float, 1>* from) { return *from; }

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING of this thread's committed groups of copies are under way.
template <int PENDING>
__device__ __forceinline__ void wait_for_older_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// The nearest number with 10 bits of mantissa, and the next towards zero: what the tensor cores read of a float.
__device__ __forceinline__ float round_to_tf32(float x) {
    return __uint_as_float((__float_as_uint(x) + 0x1000u) & 0xffffe000u);
}
__device__ __forceinline__ float cut_to_tf32(float x) { return __uint_as_float(__float_as_uint(x) & 0xffffe000u); }

// d (16 x 8) += a (16 x 8) b (8 x 8), of which this lane holds, with g = lane / 4 and t = lane % 4:
//     a: (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)      b: (t, g), (t + 4, g)
//     d: (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1)
__device__ __forceinline__ void multiply_add(float (&d)[4], const float (&a)[4], const float* b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
          "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}
#endif

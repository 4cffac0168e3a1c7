// Blocks of a cluster that read and write each other's shared memory, and matrix products of a warp.
#pragma once
#include "element.cuh"

#ifndef EMBERWATCH_HOST
extern __shared__ __align__(16) unsigned char dynamic_shared_memory[];

__device__ __forceinline__ unsigned char* block_memory() { return dynamic_shared_memory; }

__device__ __forceinline__ void sync_warp() { __syncwarp(); }

// Every thread of every block of the cluster; what was written to any block's shared memory before is seen after.
__device__ __forceinline__ void sync_cluster() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Address of `own`, which lies in this block's shared memory, in that of the block `rank`.
__device__ __forceinline__ unsigned remote_address(const void* own, int rank) {
    unsigned address;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"((unsigned)__cvta_generic_to_shared(own)), "r"(rank));
    return address;
}

__device__ __forceinline__ Pack<float, 4> load_remote(const float* own, int rank) {
    Pack<float, 4> v;
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.at[0]), "=f"(v.at[1]), "=f"(v.at[2]), "=f"(v.at[3])
                 : "r"(remote_address(own, rank))
                 : "memory");
    return v;
}

__device__ __forceinline__ void store_remote(float* own, int rank, Pack<float, 4> v) {
    asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(remote_address(own, rank)), "f"(v.at[0]),
                 "f"(v.at[1]), "f"(v.at[2]), "f"(v.at[3])
                 : "memory");
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
__device__ __forceinline__ void store_global(float* to, Pack<float, 4> v) {
    asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(v.at[0]), "f"(v.at[1]), "f"(v.at[2]),
                 "f"(v.at[3])
                 : "memory");
}
__device__ __forceinline__ Pack<float, 1> load_shared(const Pack<float, 1>* from) { return *from; }
__device__ __forceinline__ void store_global(float* to, Pack<float, 1> v) { *to = v.at[0]; }

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING of this thread's committed groups of copies are under way.
template <int PENDING>
__device__ __forceinline__ void wait_for_older_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// The nearest number with 10 bits of mantissa: what the tensor cores read of a float.
__device__ __forceinline__ float round_to_tf32(float x) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return __uint_as_float(bits);
}

// d (16 x 8) += a (16 x 8) b (8 x 8), of which this lane holds, with g = lane / 4 and t = lane % 4:
//     a: (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)      b: (t, g), (t + 4, g)
//     d: (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1)
__device__ __forceinline__ void multiply_add(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
          "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}
#endif

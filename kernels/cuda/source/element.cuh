// Elements of the arrays, and the few instructions that C++ has no word for.
#pragma once

#ifdef EMBERWATCH_HOST
#include "host_emulation.hpp"
#endif

// The arrays' element: fp32 or bfloat16 (round to nearest even), chosen at compile time.
struct Bfloat16 {
    unsigned short bits;
};

#if ELEMENT_BF16
typedef Bfloat16 Element;
#else
typedef float Element;
#endif

// N elements that are loaded and stored with one instruction.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
    T at[N];
};

#ifndef EMBERWATCH_HOST
__device__ __forceinline__ float bits_to_float(unsigned bits) { return __uint_as_float(bits); }

__device__ __forceinline__ unsigned short round_to_bfloat16(float x) {
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

// 2^x, relative error 2^-22; subnormal results are zero.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float exchange(float value, int lane_mask) {
    return __shfl_xor_sync(0xffffffffu, value, lane_mask);
}

// 16 bytes from global to shared memory without a register in between; zeros where not valid.
__device__ __forceinline__ void copy_async_16(void* to, const void* from, bool valid) {
    unsigned address = (unsigned)__cvta_generic_to_shared(to);
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}

__device__ __forceinline__ void copy_async_4(void* to, const void* from, bool valid) {
    unsigned address = (unsigned)__cvta_generic_to_shared(to);
    int bytes = valid ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}

__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Adds four neighbours in global memory, without an answer.
__device__ __forceinline__ void add_global(float* to, Pack<float, 4> v) {
#if __CUDA_ARCH__ >= 900
    asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(v.at[0]), "f"(v.at[1]), "f"(v.at[2]),
                 "f"(v.at[3])
                 : "memory");
#else
    for (int i = 0; i < 4; ++i) atomicAdd(to + i, v.at[i]);
#endif
}
#endif

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(Bfloat16 x) { return bits_to_float((unsigned)x.bits << 16); }
__device__ __forceinline__ void assign(float& to, float x) { to = x; }
__device__ __forceinline__ void assign(Bfloat16& to, float x) { to.bits = round_to_bfloat16(x); }

constexpr float LOG2_E = 1.44269504088896340736f;
constexpr float LN_2 = 0.69314718055994530942f;

__device__ __forceinline__ float sigmoid(float x) {
    float e = exp2_fast(-LOG2_E * fabsf(x));  // in (0, 1]: no overflow on either side
    float r = reciprocal(1.0f + e);
    return x >= 0.0f ? r : e * r;
}

// log(1 + exp(x)), relative error below 1e-6 on both tails, and its derivative.
__device__ __forceinline__ float softplus(float x) {
    float e = exp2_fast(-LOG2_E * fabsf(x));
    float s = e * reciprocal(2.0f + e);  // log1p(e) = 2 artanh(s), s <= 1/3
    float q = s * s;
    float series = 1.0f / 15;
    series = series * q + 1.0f / 13;
    series = series * q + 1.0f / 11;
    series = series * q + 1.0f / 9;
    series = series * q + 1.0f / 7;
    series = series * q + 1.0f / 5;
    series = series * q + 1.0f / 3;
    return fmaxf(x, 0.0f) + 2.0f * s * (1.0f + series * q);
}

// One vector of floats per instruction set, and the few operations that the compiler's vector type does not have.
//
// Included once per translation unit, which names its instruction set in EMBERWATCH_ISA. Everything sits in a namespace
// of that name: were two units to define the same inline function, the linker would keep one, perhaps the one that this
// processor cannot run.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace emberwatch::EMBERWATCH_ISA {

#if defined(__AVX512F__) && defined(__AVX512DQ__)
constexpr int kLanes = 16;
constexpr int kAccumulators = 24;  // of 32 registers; the rest hold weights and one input
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int kLanes = 8;
constexpr int kAccumulators = 12;  // of 16 registers
#else
constexpr int kLanes = 4;
constexpr int kAccumulators = 12;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int IntVec __attribute__((vector_size(kLanes * 4)));
typedef float UnalignedVec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef int UnalignedIntVec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

inline Vec load(const float* from) { return *reinterpret_cast<const UnalignedVec*>(from); }
inline IntVec load(const std::int32_t* from) { return *reinterpret_cast<const UnalignedIntVec*>(from); }
inline void store(float* to, Vec value) { *reinterpret_cast<UnalignedVec*>(to) = value; }
inline Vec broadcast(float value) { return value - Vec{}; }  // minus zero folds away, plus zero would not

// a * b + c, for where the sum has two products: which of them a compiler fuses may differ from place to place.
inline Vec multiply_add(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__) && defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

// The first `count` lanes from memory, zero in the others; reads nothing beyond them.
inline Vec load_part(const float* from, int count) {
  float lanes[kLanes] = {};
  for (int i = 0; i < count; ++i) lanes[i] = from[i];
  return load(lanes);
}

inline void store_part(float* to, Vec value, int count) {
  float lanes[kLanes];
  store(lanes, value);
  for (int i = 0; i < count; ++i) to[i] = lanes[i];
}

inline float sum(Vec value) {
  float total = 0.0f;
  for (int i = 0; i < kLanes; ++i) total += value[i];
  return total;
}

// Lane i of the result is the sum over the lanes of rows[i]: a transpose and a sum in one tree.
#if defined(__AVX512F__) && defined(__AVX512DQ__)
inline Vec sum_rows(const Vec (&rows)[kLanes]) {
  const auto pair = [&rows](int i) {
    return _mm512_add_ps(_mm512_unpacklo_ps(rows[i], rows[i + 1]), _mm512_unpackhi_ps(rows[i], rows[i + 1]));
  };
  const auto quad = [&pair](int i) {  // in each quarter: one partial sum of rows i, i + 1, i + 2, i + 3
    const __m512d a = _mm512_castps_pd(pair(i)), b = _mm512_castps_pd(pair(i + 2));
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  };
  const auto fold = [](__m512 a, __m512 b) {  // adds neighbouring quarters
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
  };
  return fold(fold(quad(0), quad(4)), fold(quad(8), quad(12)));
}
#elif defined(__AVX2__) && defined(__FMA__)
inline Vec sum_rows(const Vec (&rows)[kLanes]) {
  const auto quad = [&rows](int i) {
    return _mm256_hadd_ps(_mm256_hadd_ps(rows[i], rows[i + 1]), _mm256_hadd_ps(rows[i + 2], rows[i + 3]));
  };
  const __m256 low = quad(0), high = quad(4);
  return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}
#else
inline Vec sum_rows(const Vec (&rows)[kLanes]) {
  Vec total;
  for (int i = 0; i < kLanes; ++i) total[i] = sum(rows[i]);
  return total;
}
#endif

// Subnormal numbers cost over a hundred cycles each, and a state that dies out would be full of them. They are read
// and written as zero while this object lives; the thread's own setting comes back with its end.
class FlushSubnormals {
#if defined(__x86_64__)
 public:
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushSubnormals() { _mm_setcsr(saved_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  unsigned saved_;
#else
 public:
  FlushSubnormals() {}
#endif
};

}  // namespace emberwatch::EMBERWATCH_ISA

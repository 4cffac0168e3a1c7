// exp2, silu and softplus on vectors, to fp32 rounding (about 1e-7 relative), NaN in, NaN out.
#pragma once

#include "simd.hpp"

namespace emberwatch::EMBERWATCH_ISA {

constexpr float kLog2E = 1.44269504088896341f;

// 2^f on [-1/2, 1/2], within 2e-9: weighted least squares on Chebyshev nodes. The constant term is exactly one, so the
// error vanishes with f: a decay close to one, whose rounding a state remembers longest, is as good as fp32 has it.
inline Vec exp2_fraction(Vec f) {
  Vec p = f * 1.5353361170e-04f + 1.3398874663e-03f;
  p = p * f + 9.6184373626e-03f;
  p = p * f + 5.5503324703e-02f;
  p = p * f + 2.4022647914e-01f;
  p = p * f + 6.9314720286e-01f;
  return p * f + 1.0f;
}

// 2^x. Far below the smallest normal number it is 0; far above the largest it is infinite or the largest power of two.
#if defined(__AVX512F__) && defined(__AVX512DQ__)
inline Vec exp2(Vec x) {
  const Vec fraction = _mm512_reduce_ps(x, 8);  // x minus the nearest integer
  return _mm512_scalef_ps(exp2_fraction(fraction), x - fraction);
}
#else
inline Vec exp2(Vec x) {
  const Vec lowest = broadcast(-126.0f), highest = broadcast(127.0f);
  Vec bounded = x < lowest ? lowest : x;
  bounded = bounded > highest ? highest : bounded;
  // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
  const Vec shifted = bounded + 12582912.0f;
  const Vec fraction = bounded - (shifted - 12582912.0f);
  const Vec power = exp2_fraction(fraction);
  const IntVec exponent = reinterpret_cast<IntVec>(shifted) << 23;
  const Vec scaled = reinterpret_cast<Vec>(reinterpret_cast<IntVec>(power) + exponent);
  return x < lowest ? Vec{} : scaled;
}
#endif

// 2^x. kSmall: |x| is known to be below a half, where the fraction is x itself: the same bits for three operations less.
template <bool kSmall>
inline Vec exp2_of(Vec x) {
  return kSmall ? exp2_fraction(x) : exp2(x);
}

// x / (1 + exp(-x))
inline Vec silu(Vec x) { return x / (1.0f + exp2(x * -kLog2E)); }

// log(1 + exp(x)) = max(x, 0) + log(1 + e) with e = exp(-|x|) in (0, 1], and log(1 + e) = 2 atanh(e / (2 + e)), whose
// series has only odd terms: accurate also where the result is tiny, which log(1 + e) itself is not.
inline Vec softplus(Vec x) {
  const Vec negative = x > Vec{} ? -x : x;
  const Vec e = exp2(negative * kLog2E);
  const Vec s = e / (2.0f + e);
  const Vec s2 = s * s;
  // atanh(s) / s - 1 over s^2 for s^2 in [0, 1/9], within 4e-10 of the whole
  Vec p = s2 * 1.1618402416e-01f + 1.0851938217e-01f;
  p = p * s2 + 1.4296268315e-01f;
  p = p * s2 + 1.9999851400e-01f;
  p = p * s2 + 3.3333333663e-01f;
  const Vec log_part = 2.0f * s * (1.0f + s2 * p);
  return (x > Vec{} ? x : Vec{}) + log_part;
}

}  // namespace emberwatch::EMBERWATCH_ISA

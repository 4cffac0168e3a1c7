// The selective scan for training: forward with a state kept before each tile of steps, backward from these.
//
// Tiles of time outside, channels inside: a tile's B and C stay in the first-level cache for all channels. The backward
// pass recomputes the states and decays of one channel and tile, then walks back through them.
#pragma once

#include "functions.hpp"
#include "layout.hpp"

namespace emberwatch::EMBERWATCH_ISA {

// Channels [first, last) of one sequence.
struct ScanShare {
  int sequence, first, last, segment;
};

template <int kVectors>
inline void train_forward(const TrainingScan& s, const ScanShare& own) {
  constexpr int kStates = kVectors * kLanes;
  const FlushSubnormals flush;
  for (int start = 0; start < s.length; start += kTrainingTile) {
    const int steps = s.length - start < kTrainingTile ? s.length - start : kTrainingTile;
    const std::size_t row = std::size_t(own.sequence) * s.length + start;
    for (int c = own.first; c < own.last; ++c) {
      const float* A = s.A + std::size_t(c) * kStates;
      float* last = s.last + (std::size_t(own.sequence) * s.channels + c) * kStates;
      float* kept = s.checkpoints +
                    ((std::size_t(own.sequence) * s.tiles() + start / kTrainingTile) * s.channels + c) * kStates;
      Vec h[kVectors];
      for (int i = 0; i < kVectors; ++i) store(kept + i * kLanes, h[i] = load(last + i * kLanes));
      for (int group = 0; group < steps; group += kLanes) {
        const int count = steps - group < kLanes ? steps - group : kLanes;
        Vec dots[kLanes];
        for (int k = count; k < kLanes; ++k) dots[k] = Vec{};
        for (int k = 0; k < count; ++k) {
          const std::size_t t = row + group + k, at = t * s.channels + c;
          const Vec dt = broadcast(s.dt[at]), weight = broadcast(s.dt_in[at] * s.u[at]);
          const float *B = s.B + t * kStates, *C = s.C + t * kStates;
          Vec dot{};
#pragma GCC unroll 8
          for (int i = 0; i < kVectors; ++i) {
            h[i] = exp2(dt * load(A + i * kLanes)) * h[i] + weight * load(B + i * kLanes);
            dot += h[i] * load(C + i * kLanes);
          }
          dots[k] = dot;
        }
        const Vec sums = sum_rows(dots);
        for (int k = 0; k < count; ++k) s.y[(row + group + k) * s.channels + c] = sums[k];
      }
      for (int i = 0; i < kVectors; ++i) store(last + i * kLanes, h[i]);
    }
  }
}

template <int kVectors>
inline void train_backward(const TrainingScan& s, const ScanShare& own) {
  constexpr int kStates = kVectors * kLanes;
  const FlushSubnormals flush;
  alignas(64) float states[kTrainingTile + 1][kStates], decays[kTrainingTile][kStates];
  const std::size_t segment = std::size_t(own.segment) * s.sequences * s.length * kStates;
  for (int start = (s.tiles() - 1) * kTrainingTile; start >= 0; start -= kTrainingTile) {
    const int steps = s.length - start < kTrainingTile ? s.length - start : kTrainingTile;
    const std::size_t row = std::size_t(own.sequence) * s.length + start;
    for (int c = own.first; c < own.last; ++c) {
      const float* A = s.A + std::size_t(c) * kStates;
      const std::size_t place = (std::size_t(own.sequence) * s.channels + c) * kStates;
      const float* kept = s.checkpoints +
                          ((std::size_t(own.sequence) * s.tiles() + start / kTrainingTile) * s.channels + c) * kStates;
      Vec h[kVectors], carry[kVectors], d_A[kVectors];
      for (int i = 0; i < kVectors; ++i) {
        store(states[0] + i * kLanes, h[i] = load(kept + i * kLanes));
        carry[i] = load(s.d_initial + place + i * kLanes);
        d_A[i] = load(s.d_A + place + i * kLanes);
      }
      for (int k = 0; k < steps; ++k) {
        const std::size_t at = (row + k) * s.channels + c;
        const Vec dt = broadcast(s.dt[at]), weight = broadcast(s.dt_in[at] * s.u[at]);
        const float* B = s.B + (row + k) * kStates;
#pragma GCC unroll 8
        for (int i = 0; i < kVectors; ++i) {
          const Vec decay = exp2(dt * load(A + i * kLanes));
          h[i] = decay * h[i] + weight * load(B + i * kLanes);
          store(decays[k] + i * kLanes, decay);
          store(states[k + 1] + i * kLanes, h[i]);
        }
      }
      for (int group = (steps - 1) / kLanes * kLanes; group >= 0; group -= kLanes) {
        const int count = steps - group < kLanes ? steps - group : kLanes;
        Vec inputs[kLanes], exponents[kLanes];
        for (int k = count; k < kLanes; ++k) inputs[k] = exponents[k] = Vec{};
        for (int k = count - 1; k >= 0; --k) {
          const int step = group + k;
          const std::size_t t = row + step, at = t * s.channels + c;
          const Vec d_y = broadcast(s.d_y[at]), dt = broadcast(s.dt[at]), weight = broadcast(s.dt_in[at] * s.u[at]);
          const float *B = s.B + t * kStates, *C = s.C + t * kStates;
          float *d_B = s.d_B + segment + t * kStates, *d_C = s.d_C + segment + t * kStates;
          Vec input{}, exponent{};
#pragma GCC unroll 8
          for (int i = 0; i < kVectors; ++i) {
            const int n = i * kLanes;
            const Vec g = d_y * load(C + n) + carry[i];
            store(d_C + n, load(d_C + n) + d_y * load(states[step + 1] + n));
            store(d_B + n, load(d_B + n) + weight * g);
            input += g * load(B + n);
            carry[i] = load(decays[step] + n) * g;
            const Vec d_exponent = carry[i] * load(states[step] + n);
            exponent += d_exponent * load(A + n);
            d_A[i] += d_exponent * dt;
          }
          inputs[k] = input;
          exponents[k] = exponent;
        }
        const Vec input_sums = sum_rows(inputs), exponent_sums = sum_rows(exponents);
        for (int k = 0; k < count; ++k) {
          const std::size_t at = (row + group + k) * s.channels + c;
          s.d_u[at] = s.dt_in[at] * input_sums[k];
          s.d_dt_in[at] = s.u[at] * input_sums[k];
          s.d_dt[at] = exponent_sums[k] * 0.69314718055994531f;  // A is times log2(e)
        }
      }
      for (int i = 0; i < kVectors; ++i) {
        store(s.d_initial + place + i * kLanes, carry[i]);
        store(s.d_A + place + i * kLanes, d_A[i]);
      }
    }
  }
}

// One share of the work. Returns false when d_state is none of 16, 32, 64, 128.
inline bool train_share(const TrainingScan& s, const ScanShare& own, bool backward) {
  switch (s.d_state) {
    case 16: (backward ? train_backward<16 / kLanes> : train_forward<16 / kLanes>)(s, own); return true;
    case 32: (backward ? train_backward<32 / kLanes> : train_forward<32 / kLanes>)(s, own); return true;
    case 64: (backward ? train_backward<64 / kLanes> : train_forward<64 / kLanes>)(s, own); return true;
    case 128: (backward ? train_backward<128 / kLanes> : train_forward<128 / kLanes>)(s, own); return true;
    default: return false;
  }
}

inline bool train(const TrainingScan& s, bool backward, int sequence, int segment) {
  const int share = (s.channels + s.segments - 1) / s.segments, first = segment * share;
  const int last = first + share < s.channels ? first + share : s.channels;
  return train_share(s, {sequence, first, last, segment}, backward);
}

}  // namespace emberwatch::EMBERWATCH_ISA

// The two recurrences of a block, convolution and selective state, over consecutive rows of one vehicle.
//
// A step is the case of one row. With more rows the state of kLanes channels stays in the first-level cache while the
// rows go by, and memory sees it once.
#pragma once

#include <cstring>

#include "functions.hpp"
#include "layout.hpp"

namespace emberwatch::EMBERWATCH_ISA {

// Causal depthwise convolution and silu, in place.
//   u:       (rows, stride) inputs, the first d_inner of each row; becomes silu(conv(u) + bias)
//   state:   (d_inner, d_conv - 1) the inputs before the first row, oldest first; becomes those before the next
//   window:  (d_conv, padded d_inner) scratch
inline void convolve(const Sizes& s, const Block& block, float* u, int stride, int rows, float* state, float* window) {
  const int width = padded(s.d_inner), history = s.d_conv - 1;
  // Channels lie side by side in the window, as they do in u: the state is transposed once on the way in and out.
  for (int channel = 0; channel < s.d_inner; ++channel)
    for (int age = 0; age < history; ++age) window[age * width + channel] = state[channel * history + age];
  for (int row = 0; row < rows; ++row, u += stride) {
    // The window is a ring: the slice that is overwritten last time was the oldest.
    std::memcpy(window + (row + history) % s.d_conv * width, u, sizeof(float) * width);
    for (int channel = 0; channel < width; channel += kLanes) {
      Vec total = load(block.conv_bias + channel);
      for (int tap = 0; tap < s.d_conv; ++tap) {
        total += load(block.conv_taps + tap * width + channel) * load(window + (row + tap) % s.d_conv * width + channel);
      }
      store(u + channel, silu(total));
    }
  }
  for (int age = 0; age < history; ++age) {
    const float* slice = window + (rows + age) % s.d_conv * width;
    for (int channel = 0; channel < s.d_inner; ++channel) state[channel * history + age] = slice[channel];
  }
}

// Operands of the selective scan; a row of each per sample.
struct ScanRows {
  const float *u, *dt, *dt_in, *B, *C;
  float* y;
  int u_stride, dt_stride, projected_stride, y_stride;
};

// One row of one channel: h = exp2(dt * decay) * h + weight * B, summed against C over the lanes.
// kVectors: vectors of d_state, or 0 when d_state is not a multiple of the lanes.
template <int kVectors>
inline Vec advance_channel(float* h, const float* decay, Vec dt, Vec weight, const float* B, const float* C, int d_state) {
  Vec dot{};
  if constexpr (kVectors > 0) {
#pragma GCC unroll 8
    for (int i = 0; i < kVectors * kLanes; i += kLanes) {
      const Vec state = exp2(dt * load(decay + i)) * load(h + i) + weight * load(B + i);
      store(h + i, state);
      dot += state * load(C + i);
    }
  } else {
    for (int i = 0; i < d_state; i += kLanes) {
      const int count = d_state - i < kLanes ? d_state - i : kLanes;
      const Vec state = exp2(dt * load(decay + i)) * load_part(h + i, count) + weight * load(B + i);
      store_part(h + i, state, count);
      dot += state * load(C + i);
    }
  }
  return dot;
}

// y = h . C for every row, h updated in place: (d_inner, d_state).  Source: Mamba, Gu & Dao 2023, algorithm 2.
template <int kVectors>
void scan_channels(const Sizes& s, const Block& block, const ScanRows& at, int rows, float* h) {
  const int decay_stride = padded(s.d_state);
  for (int first = 0; first < s.d_inner; first += kLanes) {
    const int channels = s.d_inner - first < kLanes ? s.d_inner - first : kLanes;
    for (int row = 0; row < rows; ++row) {
      const float* B = at.B + row * at.projected_stride;
      const float* C = at.C + row * at.projected_stride;
      const float* dt = at.dt + row * at.dt_stride + first;
      const Vec weights = load(at.dt_in + row * at.dt_stride + first) * load(at.u + row * at.u_stride + first);
      float weight[kLanes];
      store(weight, weights);
      Vec dots[kLanes] = {};
      for (int i = 0; i < channels; ++i) {
        dots[i] = advance_channel<kVectors>(h + std::size_t(first + i) * s.d_state, block.decay + (first + i) * decay_stride,
                                            broadcast(dt[i]), broadcast(weight[i]), B, C, s.d_state);
      }
      store(at.y + row * at.y_stride + first, sum_rows(dots));
    }
  }
}

using ScanFunction = void (*)(const Sizes&, const Block&, const ScanRows&, int, float*);

inline ScanFunction choose_scan(int d_state) {
  switch (d_state % kLanes == 0 ? d_state / kLanes : 0) {
    case 1: return scan_channels<1>;
    case 2: return scan_channels<2>;
    case 4: return scan_channels<4>;
    case 8: return scan_channels<8>;
    case 16: return scan_channels<16>;
    default: return scan_channels<0>;
  }
}

}  // namespace emberwatch::EMBERWATCH_ISA

// The two recurrences of a block, convolution and selective state, over consecutive rows of one vehicle.
//
// A step is the case of one row. With more rows the state of kLanes channels stays in the first-level cache while the
// rows go by, and memory sees it once.
#pragma once

#include "functions.hpp"
#include "layout.hpp"

namespace emberwatch::EMBERWATCH_ISA {

// Lanes [first, first + kLanes) of the convolution of one row; the state moves on by one sample.
// kWhole: all of these channels exist; else only `count` of them do, and the state ends after them.
template <bool kWhole>
inline void convolve_lanes(const Sizes& s, const Block& block, float* u, float* state, int first, int count) {
  const int width = padded(s.d_inner);
  const Vec newest = load(u + first);
  Vec total = load(block.conv_bias + first) + load(block.conv_taps + (s.d_conv - 1) * width + first) * newest;
  for (int tap = 0; tap < s.d_conv - 1; ++tap) {
    const float* from = state + tap * s.d_inner + first;
    total += load(block.conv_taps + tap * width + first) * (kWhole ? load(from) : load_part(from, count));
    // The slice before this one has been read, and what was in this one is its next content.
    float* to = state + (tap - 1) * s.d_inner + first;
    if (tap > 0) kWhole ? store(to, load(from)) : store_part(to, load_part(from, count), count);
  }
  if (s.d_conv > 1) {
    float* to = state + (s.d_conv - 2) * s.d_inner + first;
    kWhole ? store(to, newest) : store_part(to, newest, count);
  }
  store(u + first, silu(total));
}

// Causal depthwise convolution and silu, in place.
//   u:      (rows, stride) inputs, the first d_inner of each row; becomes silu(conv(u) + bias)
//   state:  (d_conv - 1, d_inner) the inputs before the first row, oldest first; becomes those before the next
inline void convolve(const Sizes& s, const Block& block, float* u, int stride, int rows, float* state) {
  const int whole = s.d_inner / kLanes * kLanes;
  for (int row = 0; row < rows; ++row, u += stride) {
    for (int first = 0; first < whole; first += kLanes) convolve_lanes<true>(s, block, u, state, first, kLanes);
    if (whole < s.d_inner) convolve_lanes<false>(s, block, u, state, whole, s.d_inner - whole);
  }
}

// Consecutive rows of one vehicle within a block.
struct Segment {
  int row, rows;
  std::int64_t slot;
  int first_wanted;  // y is wanted of the rows from here on
};

// Operands of the selective scan, a row of each per sample, and where the layer's states lie.
struct ScanRows {
  const float *u, *dt, *dt_in, *B, *C;
  float* y;
  int u_stride, dt_stride, projected_stride;
  float* ssm_state;         // of slot 0
  std::size_t slot_stride;  // floats from slot to slot
};

// One row of one channel: h = exp2(dt * decay) * h + weight * B, summed against C over the lanes.
// kVectors: vectors of d_state, or 0 when d_state is not a multiple of the lanes.
template <int kVectors>
inline Vec advance_channel(float* h, const float* decay, Vec dt, Vec weight, const float* B, const float* C,
                           int d_state) {
  Vec dot{};
  if constexpr (kVectors > 0) {
#pragma GCC unroll 8
    for (int i = 0; i < kVectors * kLanes; i += kLanes) {
      const Vec state = multiply_add(exp2(dt * load(decay + i)), load(h + i), weight * load(B + i));
      store(h + i, state);
      dot += state * load(C + i);
    }
  } else {
    for (int i = 0; i < d_state; i += kLanes) {
      const int count = d_state - i < kLanes ? d_state - i : kLanes;
      const Vec state = multiply_add(exp2(dt * load(decay + i)), load_part(h + i, count), weight * load(B + i));
      store_part(h + i, state, count);
      dot += state * load(C + i);
    }
  }
  return dot;
}

// Asks for the cache lines of one channel's state, for writing.
template <int kVectors>
inline void prefetch(const float* h, int d_state) {
  const int floats = kVectors > 0 ? kVectors * kLanes : d_state;
#pragma GCC unroll 8
  for (int i = 0; i < floats; i += kPad) __builtin_prefetch(h + i, 1);
}

// The rows of one segment through the channels [first, first + channels), channels <= kLanes.
//   h:     (channels, d_state), updated in place
//   next:  the states that come after these; they are on their way from memory while these are computed
template <int kVectors>
inline void scan_segment(const Sizes& s, const Block& block, const ScanRows& at, const Segment& segment, int first,
                         int channels, float* h, const float* next) {
  const int decay_stride = padded(s.d_state);
  const float* decay = block.decay + std::size_t(first) * decay_stride;
  for (int row = segment.row; row < segment.row + segment.rows; ++row) {
    const float* B = at.B + row * at.projected_stride;
    const float* C = at.C + row * at.projected_stride;
    const float* dt = at.dt + row * at.dt_stride + first;
    float weight[kLanes];
    store(weight, load(at.dt_in + row * at.dt_stride + first) * load(at.u + row * at.u_stride + first));
    const bool first_row = row == segment.row;
    Vec dots[kLanes];
    for (int i = channels; i < kLanes; ++i) dots[i] = Vec{};
    for (int i = 0; i < channels; ++i) {
      if (first_row) prefetch<kVectors>(next + i * s.d_state, s.d_state);
      dots[i] = advance_channel<kVectors>(h + i * s.d_state, decay + i * decay_stride, broadcast(dt[i]),
                                          broadcast(weight[i]), B, C, s.d_state);
    }
    store(at.y + row * at.dt_stride + first, sum_rows(dots));
  }
}

// Rows of one vehicle that go through a channel together.
constexpr int kTileRows = kLanes;

// `rows` rows of one channel, rows <= kTileRows, the state in registers. Bit for bit what advance_channel gives.
//   dt, weight: of this channel, row after row kLanes apart
//   returns y in the first `rows` lanes, of rows from `wanted` on
template <int kVectors, bool kSmall>
inline Vec replay_channel(float* h, const float* decay, const float* dt, const float* weight, const float* B,
                          const float* C, int stride, int rows, int wanted) {
  Vec state[kVectors], dots[kTileRows] = {};
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) state[v] = load(h + v * kLanes);
  for (int row = 0; row < rows; ++row, B += stride, C += stride) {
    const Vec step = broadcast(dt[row * kLanes]), scale = broadcast(weight[row * kLanes]);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const Vec carried = exp2_of<kSmall>(step * load(decay + v * kLanes));
      state[v] = multiply_add(carried, state[v], scale * load(B + v * kLanes));
    }
    if (row < wanted) continue;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) dots[row] += state[v] * load(C + v * kLanes);
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) store(h + v * kLanes, state[v]);
  return wanted < rows ? sum_rows(dots) : Vec{};
}

// scan_segment for many rows: channels outside, rows inside, so that a state is loaded once for kTileRows rows.
template <int kVectors>
inline void replay_segment(const Sizes& s, const Block& block, const ScanRows& at, const Segment& segment, int first,
                           int channels, float* h) {
  const int decay_stride = padded(s.d_state);
  const float* decay = block.decay + std::size_t(first) * decay_stride;
  for (int begin = segment.row; begin < segment.row + segment.rows; begin += kTileRows) {
    const int left = segment.row + segment.rows - begin, rows = left < kTileRows ? left : kTileRows;
    float dt[kTileRows * kLanes], weight[kTileRows * kLanes], y[kLanes * kTileRows], largest[kLanes];
    Vec longest{};
    for (int row = 0; row < rows; ++row) {
      const Vec step = load(at.dt + (begin + row) * at.dt_stride + first);
      const Vec u = load(at.u + (begin + row) * at.u_stride + first);
      store(dt + row * kLanes, step);
      store(weight + row * kLanes, load(at.dt_in + (begin + row) * at.dt_stride + first) * u);
      longest = step <= longest ? longest : step;  // what is not a number stays
    }
    store(largest, longest * load(block.steepest + first));
    const float* B = at.B + begin * at.projected_stride;
    const float* C = at.C + begin * at.projected_stride;
    for (int i = 0; i < channels; ++i) {
      const auto replay = largest[i] < 0.5f ? replay_channel<kVectors, true> : replay_channel<kVectors, false>;
      store(y + i * kTileRows, replay(h + i * s.d_state, decay + i * decay_stride, dt + i, weight + i, B, C,
                                      at.projected_stride, rows, segment.first_wanted - begin));
    }
    for (int row = 0; row < rows; ++row) {
      for (int i = 0; i < channels; ++i) at.y[(begin + row) * at.dt_stride + first + i] = y[i * kTileRows + row];
    }
  }
}

// From so many rows on that pays.
constexpr int kReplayRows = 4;

// So many segments ahead of their use states are asked for: one is 4 kB of a vehicle and some 110 ns of arithmetic, less
// than memory takes to answer.
constexpr int kAhead = 2;

// y = h . C for every row of a block, the states updated in place.  Source: Mamba, Gu & Dao 2023, algorithm 2.
// Channels outside, vehicles inside: kLanes channels of the decay table then stay in the first-level cache.
template <int kVectors>
void scan_block(const Sizes& s, const Block& block, const ScanRows& at, const Segment* segments, int n_segments) {
  const auto state = [&](int segment, int channel) {
    for (; segment >= n_segments; segment -= n_segments) channel += kLanes;
    if (channel >= s.d_inner) channel = 0;  // nothing comes after the last; these are at hand
    return at.ssm_state + std::size_t(segments[segment].slot) * at.slot_stride + std::size_t(channel) * s.d_state;
  };
  for (int first = 0; first < s.d_inner; first += kLanes) {
    const int channels = s.d_inner - first < kLanes ? s.d_inner - first : kLanes;
    for (int i = 0; i < n_segments; ++i) {
      if constexpr (kVectors > 0 && kVectors <= 8) {
        if (segments[i].rows >= kReplayRows) {
          replay_segment<kVectors>(s, block, at, segments[i], first, channels, state(i, first));
          continue;
        }
      }
      scan_segment<kVectors>(s, block, at, segments[i], first, channels, state(i, first), state(i + kAhead, first));
    }
  }
}

using ScanFunction = void (*)(const Sizes&, const Block&, const ScanRows&, const Segment*, int);

inline ScanFunction choose_scan(int d_state) {
  switch (d_state % kLanes == 0 ? d_state / kLanes : 0) {
    case 1: return scan_block<1>;
    case 2: return scan_block<2>;
    case 4: return scan_block<4>;
    case 8: return scan_block<8>;
    case 16: return scan_block<16>;
    default: return scan_block<0>;
  }
}

}  // namespace emberwatch::EMBERWATCH_ISA

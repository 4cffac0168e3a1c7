// The network, embedding to heads, for one block of rows: kernels/reference.py in vectors, step and scan alike.
#pragma once

#include <cstring>

#include "linear.hpp"
#include "recurrence.hpp"

namespace emberwatch::EMBERWATCH_ISA {

// x / rms(x); the weight sits in the projection that follows.  Source: Zhang & Sennrich 2019.
inline void rms_norm(const Sizes& s, const float* x, float* normed) {
  const int width = padded(s.d_model);  // the padding is zero
  Vec squares{};
  for (int i = 0; i < width; i += kLanes) squares += load(x + i) * load(x + i);
  const float scale = 1.0f / __builtin_sqrtf(sum(squares) / float(s.d_model) + s.norm_eps);
  for (int i = 0; i < width; i += kLanes) store(normed + i, load(x + i) * scale);
}

// Step sizes of the decay and of the input: they part when a gap is long (ADR 1).
inline void step_sizes(const Sizes& s, const float* ratio, int rows, float* dt, float* dt_in) {
  const int width = padded(s.d_inner);
  for (int row = 0; row < rows; ++row, dt += width, dt_in += width) {
    const float elapsed = ratio[row];
    const float held = elapsed > s.max_hold_ratio ? s.max_hold_ratio : elapsed;
    for (int i = 0; i < width; i += kLanes) {
      const Vec step = softplus(load(dt + i));
      store(dt + i, step * elapsed);
      store(dt_in + i, step * held);
    }
  }
}

// y = (y + D * u) * silu(z)
inline void gate(const Sizes& s, const Block& block, const float* u, float* y, int rows) {
  const int width = padded(s.d_inner);
  for (int row = 0; row < rows; ++row, u += 2 * width, y += width) {
    for (int i = 0; i < width; i += kLanes) {
      store(y + i, (load(y + i) + load(block.skip + i) * load(u + i)) * silu(load(u + width + i)));
    }
  }
}

// Consecutive rows of a block.
struct Span {
  int row, rows;
};

// The rows that go through the network together. Behind the last layer's recurrence only the wanted rows go on.
struct BlockOfRows {
  int rows, n_segments, n_ends, n_wanted;
  Segment segments[kBlockRows];
  int ends[kBlockRows];             // the vehicles' last rows
  std::int64_t ended[kBlockRows];   // and which vehicles they are
  Span wanted[kBlockRows];
  const float* ratio;
  ScanFunction scan;
};

// Whose rows a block holds, and where vehicles end.
inline void find_segments(const Batch& batch, std::int64_t vehicle, std::int64_t first_row, BlockOfRows& of) {
  of.n_segments = of.n_ends = 0;
  for (int row = 0; row < of.rows; ++vehicle) {
    const std::int64_t left = batch.starts[vehicle + 1] - (first_row + row);
    const int own = left < of.rows - row ? int(left) : of.rows - row;
    if (own > 0) of.segments[of.n_segments++] = {row, own, batch.slots[vehicle], row};
    row += own;
    if (own > 0 && own == left) {
      of.ends[of.n_ends] = row - 1;
      of.ended[of.n_ends++] = vehicle;
    }
  }
}

// More ends than this share each load of the weights with the rows that nobody wants.
constexpr int kFewEnds = 3;

// Before the last layer: where only ends are wanted and they are few, they go on one by one.
inline void choose_wanted(const Batch& batch, BlockOfRows& of) {
  of.n_wanted = 1;
  of.wanted[0] = {0, of.rows};
  if (!batch.last_only || of.n_ends > kFewEnds || 4 * of.n_ends > of.rows) return;
  of.n_wanted = of.n_ends;
  for (int i = 0; i < of.n_segments; ++i) of.segments[i].first_wanted = of.rows;
  for (int i = 0; i < of.n_ends; ++i) {
    of.wanted[i] = {of.ends[i], 1};
    for (int j = 0; j < of.n_segments; ++j) {
      Segment& own = of.segments[j];
      if (own.row <= of.ends[i] && of.ends[i] < own.row + own.rows) own.first_wanted = of.ends[i];
    }
  }
}

inline void advance_layer(const Network& network, const Batch& batch, int layer, const BlockOfRows& of, Workspace& at) {
  const Sizes& s = network.sizes;
  const Block& block = network.blocks[layer];
  const int model = padded(s.d_model), inner = padded(s.d_inner), projected = s.projected();
  const int to_C = padded(s.dt_rank) + padded(s.d_state);
  for (int row = 0; row < of.rows; ++row) rms_norm(s, at.x + row * model, at.normed + row * model);
  multiply(part(block.in_proj, 0, inner), {at.normed, model, at.u, 2 * inner}, of.rows);
  for (int i = 0; i < of.n_segments; ++i) {
    const Segment& own = of.segments[i];
    float* state = batch.conv_state + (std::size_t(own.slot) * s.n_layer + layer) * s.conv_stride();
    convolve(s, block, at.u + own.row * 2 * inner, 2 * inner, own.rows, state);
  }
  multiply(part(block.x_proj, 0, to_C), {at.u, 2 * inner, at.projected, projected}, of.rows);
  multiply(block.dt_proj, {at.projected, projected, at.dt, inner}, of.rows);
  step_sizes(s, of.ratio, of.rows, at.dt, at.dt_in);
  for (int i = 0; i < of.n_wanted; ++i) {
    const auto [row, rows] = of.wanted[i];
    multiply(part(block.x_proj, to_C, padded(s.d_state)),
             {at.u + row * 2 * inner, 2 * inner, at.projected + row * projected + to_C, projected}, rows);
  }
  const float* B = at.projected + padded(s.dt_rank);
  const ScanRows operands{at.u, at.dt, at.dt_in, B, B + padded(s.d_state), at.y, 2 * inner, inner, projected,
                          batch.ssm_state + layer * s.ssm_stride(), s.n_layer * s.ssm_stride()};
  of.scan(s, block, operands, of.segments, of.n_segments);
  for (int i = 0; i < of.n_wanted; ++i) {
    const auto [row, rows] = of.wanted[i];
    float *u = at.u + row * 2 * inner, *y = at.y + row * inner, *x = at.x + row * model;
    multiply(part(block.in_proj, inner, inner), {at.normed + row * model, model, u + inner, 2 * inner}, rows);
    gate(s, block, u, y, rows);
    multiply<Store::kAdd>(block.out_proj, {y, inner, x, model}, rows);  // the residual
  }
}

inline void write_outputs(const Sizes& s, const float* features, const float* raw, float* out) {
  std::memcpy(out, raw, sizeof(float) * s.head());
  for (int i = 0; i < s.n_channels; ++i) out[i] += features[i];  // the forecast starts from the held z-scores
  for (int i = s.n_channels; i < 2 * s.n_channels; ++i) {  // log scales, bounded as in reference.heads
    out[i] = raw[i] < -5.6f ? -5.6f : raw[i] > 3.0f ? 3.0f : raw[i];
  }
}

inline void advance(const Network& network, const Batch& batch, std::int64_t vehicle, std::int64_t first_row, int rows,
                    Workspace& at) {
  const FlushSubnormals flush;
  const Sizes& s = network.sizes;
  const int model = padded(s.d_model), head = padded(s.head());
  const float* features = batch.features + first_row * s.d_input;
  BlockOfRows of;
  of.rows = rows;
  find_segments(batch, vehicle, first_row, of);
  of.n_wanted = 1;
  of.wanted[0] = {0, rows};
  of.ratio = batch.ratio + first_row;
  of.scan = choose_scan(s.d_state);
  multiply(network.embedding, {features, s.d_input, at.x, model}, rows);
  for (int layer = 0; layer < s.n_layer; ++layer) {
    if (layer == s.n_layer - 1) choose_wanted(batch, of);
    advance_layer(network, batch, layer, of, at);
  }
  for (int i = 0; i < of.n_wanted; ++i) {
    const Span& own = of.wanted[i];
    float *x = at.x + own.row * model, *raw = at.normed + own.row * head;
    for (int row = 0; row < own.rows; ++row) rms_norm(s, x + row * model, x + row * model);
    multiply(network.heads, {x, model, raw, head}, own.rows);
  }
  const auto write = [&](int row, std::int64_t to) {
    write_outputs(s, features + row * s.d_input, at.normed + row * head, batch.out + to * s.head());
  };
  if (batch.last_only) {
    for (int i = 0; i < of.n_ends; ++i) write(of.ends[i], of.ended[i]);
  } else {
    for (int row = 0; row < rows; ++row) write(row, first_row + row);
  }
}

}  // namespace emberwatch::EMBERWATCH_ISA

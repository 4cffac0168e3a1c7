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
inline void gate(const Sizes& s, const Block& block, const Workspace& at, int rows) {
  const int width = padded(s.d_inner);
  for (int row = 0; row < rows; ++row) {
    const float* u = at.u + row * 2 * width;
    float* y = at.y + row * width;
    for (int i = 0; i < width; i += kLanes) {
      store(y + i, (load(y + i) + load(block.skip + i) * load(u + i)) * silu(load(u + width + i)));
    }
  }
}

// Whose rows a block holds. Returns the number of segments.
inline int find_segments(const Batch& batch, std::int64_t vehicle, std::int64_t first_row, int rows,
                         Segment* segments) {
  int count = 0;
  for (int row = 0; row < rows; ++vehicle) {
    const std::int64_t left = batch.starts[vehicle + 1] - (first_row + row);
    const int own = left < rows - row ? int(left) : rows - row;
    if (own > 0) segments[count++] = {row, own, batch.slots[vehicle]};
    row += own;
  }
  return count;
}

// The rows that go through the network together.
struct BlockOfRows {
  int rows, n_segments;
  Segment segments[kBlockRows];
  const float* ratio;
  ScanFunction scan;
};

inline void advance_layer(const Network& network, const Batch& batch, int layer, const BlockOfRows& of, Workspace& at) {
  const Sizes& s = network.sizes;
  const Block& block = network.blocks[layer];
  const int model = padded(s.d_model), inner = padded(s.d_inner), projected = s.projected();
  for (int row = 0; row < of.rows; ++row) rms_norm(s, at.x + row * model, at.normed + row * model);
  multiply(block.in_proj, {at.normed, model, at.u, 2 * inner}, of.rows);
  for (int i = 0; i < of.n_segments; ++i) {
    const Segment& own = of.segments[i];
    float* state = batch.conv_state + (std::size_t(own.slot) * s.n_layer + layer) * s.conv_stride();
    convolve(s, block, at.u + own.row * 2 * inner, 2 * inner, own.rows, state);
  }
  multiply(block.x_proj, {at.u, 2 * inner, at.projected, projected}, of.rows);
  multiply(block.dt_proj, {at.projected, projected, at.dt, inner}, of.rows);
  step_sizes(s, of.ratio, of.rows, at.dt, at.dt_in);
  const float* B = at.projected + padded(s.dt_rank);
  const ScanRows operands{at.u, at.dt, at.dt_in, B, B + padded(s.d_state), at.y, 2 * inner, inner, projected,
                          batch.ssm_state + layer * s.ssm_stride(), s.n_layer * s.ssm_stride()};
  of.scan(s, block, operands, of.segments, of.n_segments);
  gate(s, block, at, of.rows);
  multiply<Store::kAdd>(block.out_proj, {at.y, inner, at.x, model}, of.rows);  // the residual
}

inline void write_outputs(const Sizes& s, const float* features, const float* raw, int stride, int rows, float* out) {
  for (int row = 0; row < rows; ++row, raw += stride, features += s.d_input, out += s.head()) {
    std::memcpy(out, raw, sizeof(float) * s.head());
    for (int i = 0; i < s.n_channels; ++i) out[i] += features[i];  // the forecast starts from the held z-scores
    for (int i = s.n_channels; i < 2 * s.n_channels; ++i) {  // log scales, bounded as in reference.heads
      out[i] = raw[i] < -5.6f ? -5.6f : raw[i] > 3.0f ? 3.0f : raw[i];
    }
  }
}

inline void advance(const Network& network, const Batch& batch, std::int64_t vehicle, std::int64_t first_row, int rows,
                    Workspace& at) {
  const FlushSubnormals flush;
  const Sizes& s = network.sizes;
  const int model = padded(s.d_model), head = padded(s.head());
  BlockOfRows of;
  of.rows = rows;
  of.n_segments = find_segments(batch, vehicle, first_row, rows, of.segments);
  of.ratio = batch.ratio + first_row;
  of.scan = choose_scan(s.d_state);
  multiply(network.embedding, {batch.features + first_row * s.d_input, s.d_input, at.x, model}, rows);
  for (int layer = 0; layer < s.n_layer; ++layer) advance_layer(network, batch, layer, of, at);
  for (int row = 0; row < rows; ++row) rms_norm(s, at.x + row * model, at.x + row * model);
  multiply(network.heads, {at.x, model, at.normed, head}, rows);
  write_outputs(s, batch.features + first_row * s.d_input, at.normed, head, rows, batch.out + first_row * s.head());
}

}  // namespace emberwatch::EMBERWATCH_ISA

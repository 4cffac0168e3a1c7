// The network, embedding to heads, for one block of rows: kernels/reference.py in vectors, step and scan alike.
#pragma once

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

// Calls visit(row, rows, slot) for each vehicle that has rows in the block.
template <class Visit>
inline void for_each_vehicle(const Batch& batch, std::int64_t vehicle, std::int64_t first_row, int rows, Visit visit) {
  for (int row = 0; row < rows; ++vehicle) {
    const std::int64_t left = batch.starts[vehicle + 1] - (first_row + row);
    const int count = left < rows - row ? int(left) : rows - row;
    visit(row, count, batch.slots[vehicle]);
    row += count;
  }
}

inline void advance_block(const Network& network, const Batch& batch, int layer, std::int64_t vehicle,
                          std::int64_t first_row, int rows, Workspace& at, ScanFunction scan) {
  const Sizes& s = network.sizes;
  const Block& block = network.blocks[layer];
  const int model = padded(s.d_model), inner = padded(s.d_inner), projected = s.projected();
  for (int row = 0; row < rows; ++row) rms_norm(s, at.x + row * model, at.normed + row * model);
  multiply(block.in_proj, {at.normed, model, at.u, 2 * inner}, rows);
  for_each_vehicle(batch, vehicle, first_row, rows, [&](int row, int count, std::int64_t slot) {
    float* state = batch.conv_state + std::size_t(slot * s.n_layer + layer) * s.conv_stride();
    convolve(s, block, at.u + row * 2 * inner, 2 * inner, count, state, at.window);
  });
  multiply(block.x_proj, {at.u, 2 * inner, at.projected, projected}, rows);
  multiply(block.dt_proj, {at.projected, projected, at.dt, inner}, rows);
  step_sizes(s, batch.ratio + first_row, rows, at.dt, at.dt_in);
  for_each_vehicle(batch, vehicle, first_row, rows, [&](int row, int count, std::int64_t slot) {
    float* state = batch.ssm_state + std::size_t(slot * s.n_layer + layer) * s.ssm_stride();
    const float* B = at.projected + row * projected + padded(s.dt_rank);
    const ScanRows operands{at.u + row * 2 * inner, at.dt + row * inner, at.dt_in + row * inner, B,
                            B + padded(s.d_state),  at.y + row * inner,  2 * inner,              inner,
                            projected,              inner};
    scan(s, block, operands, count, state);
  });
  gate(s, block, at, rows);
  multiply<Store::kAdd>(block.out_proj, {at.y, inner, at.x, model}, rows);  // the residual
}

inline void write_outputs(const Sizes& s, const float* raw, int stride, int rows, float* out) {
  for (int row = 0; row < rows; ++row, raw += stride, out += s.head()) {
    std::memcpy(out, raw, sizeof(float) * s.head());
    for (int i = s.n_channels; i < 2 * s.n_channels; ++i) {  // log scales, bounded as in reference.heads
      out[i] = raw[i] < -7.0f ? -7.0f : raw[i] > 3.0f ? 3.0f : raw[i];
    }
  }
}

inline void advance(const Network& network, const Batch& batch, std::int64_t vehicle, std::int64_t first_row, int rows,
                    Workspace& at) {
  const FlushSubnormals flush;
  const Sizes& s = network.sizes;
  const int model = padded(s.d_model), head = padded(s.head());
  const ScanFunction scan = choose_scan(s.d_state);
  multiply(network.embedding, {batch.features + first_row * s.d_input, s.d_input, at.x, model}, rows);
  for (int layer = 0; layer < s.n_layer; ++layer) {
    advance_block(network, batch, layer, vehicle, first_row, rows, at, scan);
  }
  for (int row = 0; row < rows; ++row) rms_norm(s, at.x + row * model, at.x + row * model);
  multiply(network.heads, {at.x, model, at.normed, head}, rows);
  write_outputs(s, at.normed, head, rows, batch.out + first_row * s.head());
}

}  // namespace emberwatch::EMBERWATCH_ISA

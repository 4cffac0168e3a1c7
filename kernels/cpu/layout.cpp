#include "layout.hpp"

#include <stdexcept>
#include <string>

namespace emberwatch {
namespace {

// Hands out consecutive parts of the packed weights.
class Reader {
 public:
  Reader(const float* packed, std::size_t n_floats) : at_(packed), left_(n_floats) {}

  const float* take(std::size_t n) {
    if (n > left_) throw std::invalid_argument("packed weights are too short for these sizes");
    const float* part = at_;
    at_ += n;
    left_ -= n;
    return part;
  }

  Linear linear(int depth, int outputs) {
    const float* weight = take(std::size_t(depth) * outputs);
    const float* narrow = take(std::size_t(narrow_groups(depth)) * 3 * outputs);
    const float* bias = take(outputs);
    return {weight, reinterpret_cast<const std::int32_t*>(narrow), bias, take(outputs), depth, outputs};
  }

  std::size_t left() const { return left_; }

 private:
  const float* at_;
  std::size_t left_;
};

Block read_block(const Sizes& s, Reader& reader) {
  const int inner = padded(s.d_inner);
  Block block{};
  block.in_proj = reader.linear(s.d_model, 2 * inner);
  block.conv_taps = reader.take(std::size_t(s.d_conv) * inner);
  block.conv_bias = reader.take(inner);
  block.x_proj = reader.linear(s.d_inner, s.projected());
  block.dt_proj = reader.linear(s.dt_rank, inner);
  block.decay = reader.take(std::size_t(s.d_inner) * padded(s.d_state));
  block.steepest = reader.take(inner);
  block.skip = reader.take(inner);
  block.out_proj = reader.linear(s.d_inner, padded(s.d_model));
  return block;
}

}  // namespace

Network::Network(const Sizes& s, const float* packed, std::size_t n_floats) : sizes(s) {
  Reader reader(packed, n_floats);
  embedding = reader.linear(s.d_input, padded(s.d_model));
  for (int layer = 0; layer < s.n_layer; ++layer) blocks.push_back(read_block(s, reader));
  heads = reader.linear(s.d_model, padded(s.head()));
  if (reader.left() != 0) throw std::invalid_argument("packed weights are too long for these sizes");
}

Workspace::Workspace(const Sizes& s) {
  const int inner = padded(s.d_inner), model = padded(s.d_model);
  const int head = padded(s.head());
  const int normed_width = model > head ? model : head;  // the heads' outputs reuse it
  const std::size_t per_row = model + normed_width + 2 * inner + s.projected() + 3 * inner;
  memory_.assign(per_row * kBlockRows + kPad, 0.0f);
  // Vectors that straddle a cache line cost twice, so the first row starts on one.
  float* at = memory_.data();
  while (reinterpret_cast<std::uintptr_t>(at) % 64 != 0) ++at;
  const auto take = [&at](std::size_t n) {
    float* part = at;
    at += n;
    return part;
  };
  x = take(std::size_t(kBlockRows) * model);
  normed = take(std::size_t(kBlockRows) * normed_width);
  u = take(std::size_t(kBlockRows) * 2 * inner);
  projected = take(std::size_t(kBlockRows) * s.projected());
  dt = take(std::size_t(kBlockRows) * inner);
  dt_in = take(std::size_t(kBlockRows) * inner);
  y = take(std::size_t(kBlockRows) * inner);
}

}  // namespace emberwatch

// What the kernels share, whatever the instruction set: sizes, packed weights, one call's operands, one thread's rows.
//
// The order of the packed weights is written twice, here (`Network`) and in pack.py; the constructor compares the
// totals, and every test of the backend compares the numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace emberwatch {

// Every row of activations and weights is padded to this many floats: one cache line, and the widest vector.
constexpr int kPad = 16;
constexpr int padded(int n) { return (n + kPad - 1) / kPad * kPad; }

// Names and meaning as in kernels/config.py.
struct Sizes {
  int d_input, n_channels, d_model, n_layer, d_state, d_conv, d_inner, dt_rank;
  float max_hold_ratio, norm_eps;

  int projected() const { return padded(dt_rank) + 2 * padded(d_state); }  // x_proj's outputs: dt, B, C, each padded
  int head() const { return 2 * n_channels + 1; }                          // means, log scales, risk logit
  std::size_t conv_stride() const { return std::size_t(d_inner) * (d_conv - 1); }  // floats of one layer's conv_state
  std::size_t ssm_stride() const { return std::size_t(d_inner) * d_state; }        // floats of one layer's ssm_state
};

// A projection: out = scale * (bias + weight * x), where the weights are whole numbers and the scales powers of two.
// It lies twice in memory. `weight` gives `lanes` outputs of one input in one vector load; `narrow` holds the same
// numbers in three quarters of the bytes, for when few rows share each load and reading the weights is what takes the
// time. pack.py makes both and says how numbers are rounded.
struct Linear {
  const float* weight;         // (outputs / lanes, depth, lanes)
  const std::int32_t* narrow;  // (outputs / lanes, depth / 4 rounded up, 3, lanes): see `widen` in linear.hpp
  const float* bias;           // (outputs,)
  const float* scale;          // (outputs,)
  int depth;                   // inputs
  int outputs;                 // padded
};

constexpr int kNarrowInputs = 4;  // inputs whose weights share three words
constexpr int narrow_groups(int depth) { return (depth + kNarrowInputs - 1) / kNarrowInputs; }

// Some of a projection's outputs, from `first` on, a multiple of kPad as `outputs` is.
inline Linear part(const Linear& of, int first, int outputs) {
  const std::size_t narrow_words = std::size_t(narrow_groups(of.depth)) * 3;
  return {of.weight + std::size_t(first) * of.depth, of.narrow + first * narrow_words, of.bias + first, of.scale + first,
          of.depth, outputs};
}

struct Block {
  Linear in_proj;          // RMSNorm's weight folded in; u, then z, each padded
  const float* conv_taps;  // (d_conv, padded d_inner): a tap of all channels is one run
  const float* conv_bias;  // (padded d_inner,)
  Linear x_proj;           // dt, B, C, each padded
  Linear dt_proj;
  const float* decay;  // (d_inner, padded d_state): -exp(A_log) * log2(e), so that exp(dt * A) = exp2(dt * decay)
  const float* steepest;  // (padded d_inner,): the largest |decay| of each channel
  const float* skip;      // (padded d_inner,): D
  Linear out_proj;
};

struct Network {
  Sizes sizes;
  Linear embedding;
  std::vector<Block> blocks;
  Linear heads;  // norm_f's weight folded in

  // `packed` stays owned by the caller. Throws std::invalid_argument when it does not hold exactly this network.
  Network(const Sizes& sizes, const float* packed, std::size_t n_floats);
};

// One call: each vehicle brings `lengths[i]` consecutive rows (samples in order); a step is the case of one row each.
struct Batch {
  float* conv_state;           // (n_slots, n_layer, d_conv - 1, d_inner), updated in place
  float* ssm_state;            // (n_slots, n_layer, d_inner, d_state), updated in place
  const std::int64_t* slots;   // (vehicles,)
  const std::int64_t* starts;  // (vehicles + 1,) first row of each vehicle
  const float* features;       // (rows, d_input)
  const float* ratio;          // (rows,) elapsed time over the nominal interval
  float* out;                  // (rows, or vehicles with last_only, 2 * n_channels + 1): means, log scales, risk logit
  bool last_only;              // outputs of each vehicle's last row only; of one without rows they stay as they are
};

// Rows that one thread carries through the network together. More rows share each load of the weights; fewer keep the
// activations in the second-level cache and balance the threads better. Measured in docs/kernels.md.
constexpr int kBlockRows = 24;

// One thread's activations, allocated once.
struct Workspace {
  explicit Workspace(const Sizes& sizes);
  float *x, *normed, *u, *projected, *dt, *dt_in, *y;

 private:
  std::vector<float> memory_;
};

// Steps between the states that the training scan keeps: 4 * d_inner * d_state / 32 bytes per sample.
constexpr int kTrainingTile = 32;

// Operands of the training scan, contiguous; d_state is one of 16, 32, 64, 128.
struct TrainingScan {
  int sequences, length, channels, d_state;
  int segments;  // into which the channels are cut, so that all threads have work
  const float *u, *dt, *dt_in;      // (sequences, length, channels)
  const float* A;                   // (channels, d_state), times log2(e)
  const float *B, *C;               // (sequences, length, d_state)
  float* last;                      // (sequences, channels, d_state): the first state; becomes the last
  float *y, *checkpoints;           // like u; (sequences, tiles, channels, d_state)
  const float* d_y;                 // like u
  float *d_u, *d_dt, *d_dt_in;      // like u
  float *d_B, *d_C;                 // (segments, sequences, length, d_state), added to
  float* d_A;                       // (sequences, channels, d_state), added to; of A without log2(e)
  float* d_initial;                 // (sequences, channels, d_state): of the last state; becomes that of the first

  int tiles() const { return (length + kTrainingTile - 1) / kTrainingTile; }
};

// The whole network compiled for one instruction set.
struct Kernel {
  const char* name;
  int lanes;
  bool (*supported)();
  // Carries rows [first_row, first_row + rows), rows <= kBlockRows, of which the first belongs to `vehicle`.
  void (*advance)(const Network&, const Batch&, std::int64_t vehicle, std::int64_t first_row, int rows, Workspace&);
  // One segment of one sequence of the training scan, forward or backward; false when d_state is not supported.
  bool (*train)(const TrainingScan&, bool backward, int sequence, int segment);
};

extern const Kernel kPortable;
#if defined(__x86_64__)
extern const Kernel kAvx2;
extern const Kernel kAvx512;
#endif

}  // namespace emberwatch

// out = scale * (bias + weight * x) for a block of rows (or out += that): the projections, as a small matrix product.
//
// Lanes are outputs. Each load of the weights serves all rows of a group, each broadcast of an input all tiles of a
// group, so the multiply-adds and not the loads set the pace. A sum always runs over the inputs in order, whatever
// the group, and narrow weights are the same numbers as wide ones: the result of a row does not depend on its
// neighbours, bit for bit.
#pragma once

#include "layout.hpp"
#include "simd.hpp"

namespace emberwatch::EMBERWATCH_ISA {

enum class Store { kOverwrite, kAdd };

struct Rows {
  const float* x;
  int x_stride;
  float* out;
  int out_stride;
};

// The weights of four inputs from three words a lane: three are words as they stand, the fourth is made of their lowest
// bytes. pack.py has rounded the three knowing what their lowest bytes hold.
inline void widen(const std::int32_t* narrow, Vec (&weights)[kNarrowInputs]) {
  const IntVec a = load(narrow), b = load(narrow + kLanes), c = load(narrow + 2 * kLanes);
  const IntVec d = (a << 24) | ((b << 16) & 0xFF0000) | ((c << 8) & 0xFF00);
  weights[0] = __builtin_convertvector(a, Vec);
  weights[1] = __builtin_convertvector(b, Vec);
  weights[2] = __builtin_convertvector(c, Vec);
  weights[3] = __builtin_convertvector(d, Vec);
}

// sums[row][tile] += weight * x over all inputs, in their order.
template <int kRows, int kTiles>
inline void accumulate(const Linear& linear, const Rows& at, int first, Vec (&sums)[kRows][kTiles]) {
  const int tile_floats = linear.depth * kLanes;
  const float* weight = linear.weight + std::size_t(first) * tile_floats;
  for (int input = 0; input < linear.depth; ++input) {
    Vec column[kTiles];
#pragma GCC unroll 32
    for (int tile = 0; tile < kTiles; ++tile) column[tile] = load(weight + tile * tile_floats + input * kLanes);
#pragma GCC unroll 32
    for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 32
      for (int tile = 0; tile < kTiles; ++tile) sums[row][tile] += column[tile] * at.x[row * at.x_stride + input];
  }
}

// The same, bit for bit, from the narrow weights.
template <int kRows, int kTiles>
inline void accumulate_narrow(const Linear& linear, const Rows& at, int first, Vec (&sums)[kRows][kTiles]) {
  const int tile_words = narrow_groups(linear.depth) * 3 * kLanes;
  const std::int32_t* narrow = linear.narrow + std::size_t(first) * tile_words;
  const auto group = [&](int input, int inputs) {
#pragma GCC unroll 32
    for (int tile = 0; tile < kTiles; ++tile) {
      Vec weights[kNarrowInputs];
      widen(narrow + tile * tile_words, weights);
#pragma GCC unroll 32
      for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 4
        for (int i = 0; i < inputs; ++i) sums[row][tile] += weights[i] * at.x[row * at.x_stride + input + i];
    }
    narrow += 3 * kLanes;
  };
  int input = 0;
  for (; input + kNarrowInputs <= linear.depth; input += kNarrowInputs) group(input, kNarrowInputs);
  if (input < linear.depth) group(input, linear.depth - input);  // beyond the inputs there is anything, also NaN
}

// The largest group of rows, at two tiles each.
constexpr int kMaxRows = kAccumulators / 2;
// Up to so many rows, reading the weights takes longer than making them wide. Measured in docs/kernels.md.
constexpr int kNarrowRows = kMaxRows / 2;
// Tiles of a group: as many as the accumulators allow, at most 8, so that few rows still hide the latency of the sums.
constexpr int group_tiles(int rows) { return kAccumulators / rows < 8 ? kAccumulators / rows : 8; }

// kRows rows times kTiles tiles of kLanes outputs each, from tile `first` on.
template <int kRows, int kTiles, Store kStore>
inline void multiply_group(const Linear& linear, const Rows& at, int first) {
  Vec sums[kRows][kTiles];
#pragma GCC unroll 32
  for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 32
    for (int tile = 0; tile < kTiles; ++tile) sums[row][tile] = load(linear.bias + (first + tile) * kLanes);
  if constexpr (kRows <= kNarrowRows) {
    accumulate_narrow<kRows, kTiles>(linear, at, first, sums);
  } else {
    accumulate<kRows, kTiles>(linear, at, first, sums);
  }
  float* out = at.out + first * kLanes;
#pragma GCC unroll 32
  for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 32
    for (int tile = 0; tile < kTiles; ++tile) {
      float* to = out + row * at.out_stride + tile * kLanes;
      const Vec value = sums[row][tile] * load(linear.scale + (first + tile) * kLanes);
      store(to, kStore == Store::kAdd ? load(to) + value : value);
    }
}

template <int kRows, Store kStore>
inline void multiply_rows(const Linear& linear, const Rows& at, int first, int tiles) {
  constexpr int kTiles = group_tiles(kRows);
  if (tiles == kTiles) return multiply_group<kRows, kTiles, kStore>(linear, at, first);
  if (tiles == 2) return multiply_group<kRows, 2, kStore>(linear, at, first);
  for (int tile = 0; tile < tiles; ++tile) multiply_group<kRows, 1, kStore>(linear, at, first + tile);
}

// `rows` rows, at most kMaxRows: picks the group compiled for that number.
template <Store kStore, int kRows = kMaxRows>
inline void multiply_remaining(const Linear& linear, const Rows& at, int rows, int first, int tiles) {
  if constexpr (kRows > 0) {
    if (rows == kRows) return multiply_rows<kRows, kStore>(linear, at, first, tiles);
    multiply_remaining<kStore, kRows - 1>(linear, at, rows, first, tiles);
  }
}

template <Store kStore = Store::kOverwrite>
inline void multiply(const Linear& linear, const Rows& at, int rows) {
  const int tiles = linear.outputs / kLanes;
  // Thirteen rows go as 7 + 6: a group of one row would wait for its loads.
  const int groups = (rows + kMaxRows - 1) / kMaxRows;
  const int most = (rows + groups - 1) / groups, step = groups > 1 ? 2 : group_tiles(rows);
  // Rows inside, tiles outside: the weights of a group of tiles stay in the first-level cache for all rows.
  for (int first = 0; first < tiles; first += step) {
    const int own = tiles - first < step ? tiles - first : step;
    for (int row = 0; row < rows; row += most) {
      const Rows group{at.x + row * at.x_stride, at.x_stride, at.out + row * at.out_stride, at.out_stride};
      multiply_remaining<kStore>(linear, group, rows - row < most ? rows - row : most, first, own);
    }
  }
}

}  // namespace emberwatch::EMBERWATCH_ISA

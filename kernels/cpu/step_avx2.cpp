// The network in AVX2 and FMA: vectors of eight floats.
#define EMBERWATCH_ISA avx2
#if defined(__x86_64__)
#include "network.hpp"
#include "training_scan.hpp"

namespace emberwatch {

static bool supported() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

const Kernel kAvx2{"avx2", avx2::kLanes, supported, avx2::advance, avx2::train};

}  // namespace emberwatch
#endif

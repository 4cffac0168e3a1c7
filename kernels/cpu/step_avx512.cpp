// The network in AVX-512: vectors of sixteen floats.
#define EMBERWATCH_ISA avx512
#if defined(__x86_64__)
#include "network.hpp"
#include "training_scan.hpp"

namespace emberwatch {

static bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
}

const Kernel kAvx512{"avx512", avx512::kLanes, supported, avx512::advance, avx512::train};

}  // namespace emberwatch
#endif

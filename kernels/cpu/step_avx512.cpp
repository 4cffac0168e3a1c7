// The network in AVX-512: vectors of sixteen floats.
#define EMBERWATCH_ISA avx512
#if defined(__x86_64__)
#include "network.hpp"

namespace emberwatch {

const Kernel kAvx512{"avx512", avx512::kLanes, [] { return bool(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma")); }, avx512::advance};

}  // namespace emberwatch
#endif

#include <algorithm>
#include "element.cuh"

inline Pack<float, 4> load_remote(const float* own, int rank) {
    return *reinterpret_cast<const Pack<float, 4>*>(remote_address(own, rank));
}
inline void store_remote(float* own, int rank, Pack<float, 4> v) {
    *reinterpret_cast<Pack<float, 4>*>(remote_address(own, rank)) = v;
}
template <int N>
inline Pack<float, N> load_shared(const Pack<float, N>* from) { return *from; }
template <int N>
inline void store_global(float* to, Pack<float, N> v) {
    if ((uintptr_t)to % (4 * N)) abort();  // misaligned
    *reinterpret_cast<Pack<float, N>*>(to) = v;
}
#include "step.cu"

EMULATE_CLUSTERS(network_step, StepParams, RANKS)

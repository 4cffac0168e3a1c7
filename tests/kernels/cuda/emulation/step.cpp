#include <algorithm>
#include "element.cuh"

inline Pack<float, 4> load_remote(const float* own, int rank) {
    return *reinterpret_cast<const Pack<float, 4>*>(remote_address(own, rank));
}
inline void store_remote(float* own, int rank, Pack<float, 4> v) {
    *reinterpret_cast<Pack<float, 4>*>(remote_address(own, rank)) = v;
}
#include "step.cu"

EMULATE_CLUSTERS(network_step, StepParams, RANKS)

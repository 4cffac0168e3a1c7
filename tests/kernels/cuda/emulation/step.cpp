#include <algorithm>
#include "element.cuh"

inline void send(float* own, Mail* mail, int rank, Pack<float, 4> v) { send_bytes(own, mail, rank, v.at); }
template <typename T>
inline void load_weights(Pack<T, 4>& to, const Pack<T, 4>* from, bool valid) {
    if (valid) to = *from;
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

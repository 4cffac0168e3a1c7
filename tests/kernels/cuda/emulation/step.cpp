#include <algorithm>
#include "element.cuh"

inline void send(float* own, Mail* mail, int rank, Pack<float, 4> v) { send_bytes(own, mail, rank, v.at); }
inline float load_kept(const float* from) { return *from; }
template <int N>
inline Pack<float, N> load_kept(const Pack<float, N>* from) { return *from; }
template <typename T>
inline void load_weights(Pack<T, 4>& to, const Pack<T, 4>* from, bool valid) {
    if (valid) to = *from;
}
template <int N>
inline Pack<float, N> load_shared(const Pack<float, N>* from) { return *from; }
typedef int Policy;
template <int PERCENT>
inline Policy state_policy() { return PERCENT; }
template <int N>
inline void store_state(float* to, Pack<float, N> v, Policy) {
    if ((uintptr_t)to % (4 * N)) abort();  // misaligned
    *reinterpret_cast<Pack<float, N>*>(to) = v;
}
template <int N>
inline void copy_state(Pack<float, N>* to, const float* from, Policy) { copy_async(to, from, 4 * N, true); }
#include "step.cu"

EMULATE_CLUSTERS(network_step, StepParams, RANKS)

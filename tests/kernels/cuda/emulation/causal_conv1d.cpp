#include <algorithm>
#include "causal_conv1d.cu"

inline void add_global(float* to, Pack<float, 4> v) {
    for (int i = 0; i < 4; ++i) to[i] += v.at[i];
}
EMULATE(conv_forward, ConvParams)
EMULATE(conv_backward, ConvParams)

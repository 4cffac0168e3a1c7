// The network for any processor, in vectors of four floats.
#define EMBERWATCH_ISA portable
#include "network.hpp"

namespace emberwatch {

const Kernel kPortable{"portable", portable::kLanes, [] { return bool(true); }, portable::advance};

}  // namespace emberwatch

// The network for any processor, in vectors of four floats.
#define EMBERWATCH_ISA portable
#include "network.hpp"
#include "training_scan.hpp"

namespace emberwatch {

const Kernel kPortable{"portable", portable::kLanes, [] { return bool(true); }, portable::advance, portable::train};

}  // namespace emberwatch

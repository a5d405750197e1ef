#include "simd/neon.h"

#include "table.h"

namespace freehold {
const Kernels& kernels_neon() {
    static const Kernels table = make_table("neon");
    return table;
}
}  // namespace freehold

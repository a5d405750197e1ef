#include "simd/plain.h"

#include "table.h"

namespace freehold {
const Kernels& kernels_plain() {
    static const Kernels table = make_table("plain");
    return table;
}
}  // namespace freehold

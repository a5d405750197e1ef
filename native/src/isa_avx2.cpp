#include "simd/avx2.h"

#include "table.h"

namespace freehold {
const Kernels& kernels_avx2() {
    static const Kernels table = make_table("avx2");
    return table;
}
}  // namespace freehold

#include "simd/avx512.h"

#include "table.h"

namespace freehold {
const Kernels& kernels_avx512vnni() {
    static const Kernels table = make_table("avx512vnni");
    return table;
}
}  // namespace freehold

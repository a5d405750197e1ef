#include "simd/avx512.h"

#include "table.h"

namespace freehold {
const Kernels& kernels_avx512bf16() {
    static const Kernels table = make_table("avx512bf16");
    return table;
}
}  // namespace freehold

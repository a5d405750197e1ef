#define FREEHOLD_AVXVNNI
#include "simd/avx2.h"

#include "table.h"

namespace freehold {
const Kernels& kernels_avxvnni() {
    static const Kernels table = make_table("avxvnni");
    return table;
}
}  // namespace freehold

// From GGUF blocks to packed blocks of 16 rows, and from packed rows to floats.
#pragma once

#include <cstdint>

#include "formats.h"

namespace freehold {

// rows: 16 pointers to a row's GGUF blocks, null for rows that do not exist (they become zeros).
void pack_block(Format format, const uint8_t* const* rows, int64_t supers, uint8_t* out);

// One row's values, in float32, by the products and sums of ggml's own dequantisation.
void dequantise_row(Format format, const uint8_t* block, int row, int64_t supers, float* out);

}  // namespace freehold

// What the CPU side of the operators needs to reach its kernels: threads and pointers.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "cpu/kernels.h"
#include "tensors.h"

namespace eft_fast {

// Splits work over torch's threads; alone, or inside a parallel region, it simply runs.
inline void run_pool(int64_t count,
                     int64_t grain,
                     void (*body)(void*, int64_t, int64_t),
                     void* context) {
  if (count <= 0) return;
  if (count <= grain) {
    body(context, 0, count);
    return;
  }
  torch::stable::parallel_for(
      0, count, grain, [=](int64_t begin, int64_t end) { body(context, begin, end); });
}

constexpr cpu::Pool kPool{run_pool};

}  // namespace eft_fast

// The one door between a kernel and the machine that runs it: a GPU, or the CPU in the tests.
//
// A .cu file includes this header and no CUDA header. It starts kernels with EFT_LAUNCH, declares
// shared memory with EFT_SHARED or EFT_DYNAMIC_SHARED, and reaches tensor cores and asynchronous
// copies through the functions below. With EFT_FAST_CUDA_EMULATOR defined the same file is plain
// C++.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef EFT_FAST_CUDA_EMULATOR

#include "cuda_emulator.h"

#else

#include <cuda_runtime.h>

// EFT_LAUNCH((kernel<float>), grid, block, shared_bytes, stream, arguments...): <<<>>> is used here
// and nowhere else. The launcher ends with `return cudaGetLastError();`.
#define EFT_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  (kernel)<<<(grid), (block), (shared_bytes), static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)

#define EFT_SHARED(T, name, n) __shared__ __align__(16) T name[n]

// At most one per kernel; its size is the shared_bytes of the launch.
#define EFT_DYNAMIC_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char eft_dynamic_shared[]; \
  T* name = reinterpret_cast<T*>(eft_dynamic_shared)

// Rounds to the 10 mantissa bits of TF32, ties away from zero.
__device__ __forceinline__ float to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return __uint_as_float(bits);
}

// The same for an operand of a tensor core, which ignores the other bits: they stay. Two
// instructions, where the conversion above takes six; NaN and infinity stay what they are.
__device__ __forceinline__ float near_tf32(float x) {
  const float inf = __int_as_float(0x7F800000);
  return fabsf(x) < inf ? __uint_as_float(__float_as_uint(x) + 0x1000u) : x;
}

// d += a b for one warp: a is 16x8, b is 8x8, d is 16x8 in float32. With g = lane / 4, t = lane %
// 4: a = (g,t) (g+8,t) (g,t+4) (g+8,t+4); b = (t,g) (t+4,g); d = (g,2t) (g,2t+1) (g+8,2t)
// (g+8,2t+1).
__device__ __forceinline__ void mma_tf32_16x8x8(float d[4], const float a[4], const float b[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a[0])),
        "r"(__float_as_uint(a[1])),
        "r"(__float_as_uint(a[2])),
        "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])),
        "r"(__float_as_uint(b[1])));
}

// Copies 16 bytes from global to shared memory behind the thread's back; both 16-byte aligned.
// The bytes are there after cp_async_wait, and for other threads after the next barrier.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global) {
  const auto target = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(target), "l"(global) : "memory");
}

// Closes a group of copies; cp_async_wait<n> waits until at most the n newest groups are in flight.
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int n>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

#endif

namespace eft_fast {

// x = high + low, by cutting; the tensor core takes 10 bits of each. Two instructions, where
// rounding takes twelve; NaN and infinity stay NaN and infinity in high.
__device__ inline void split_tf32(float x, float& high, float& low) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  bits &= 0xFFFFE000u;
  memcpy(&high, &bits, 4);
  low = x - high;
}

// Four neighbours in memory, moved at once; the first one lies at a multiple of four.
template <typename T>
struct alignas(sizeof(T) < 4 ? 4 * sizeof(T) : 16) Four {
  T at[4];
};

template <typename T>
__device__ inline Four<T> load_four(const T* from) {
  return *reinterpret_cast<const Four<T>*>(from);
}

template <typename T>
__device__ inline void store_four(T* target, const Four<T>& values) {
  *reinterpret_cast<Four<T>*>(target) = values;
}

// Blocks of a launch. A grid that is too large becomes one of 0 blocks: the launch refuses it,
// where a cast would leave a part of the work undone.
inline unsigned grid_of(int64_t blocks) {
  return blocks <= INT32_MAX ? static_cast<unsigned>(blocks) : 0;
}

// Raises the dynamic shared memory of a kernel above the default 48 KB. Allowed during graph
// capture.
template <typename Kernel>
inline cudaError_t allow_shared(Kernel* kernel, int bytes) {
  return cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

}  // namespace eft_fast

// Small kernels that try out the test device itself: right ones, and each kind of wrong one.
#include "launch.h"

namespace {

__global__ void reverse_kernel(const float* in, float* out) {
  EFT_SHARED(float, row, 64);
  row[threadIdx.x] = in[blockIdx.x * 64 + threadIdx.x];
  __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = row[63 - threadIdx.x];
}

// Wrong: no barrier between the write and the read.
__global__ void racy_kernel(const float* in, float* out) {
  EFT_SHARED(float, last, 1);
  last[0] = in[threadIdx.x];
  __syncwarp();
  out[threadIdx.x] = last[0];
}

// Wrong where the halves of the block, or of a warp, exchange without a barrier of that kind.
// barrier: 0 none, 1 __syncwarp, 2 __syncthreads; reach: which thread's number is read.
__global__ void exchange_kernel(const float* in, int barrier, int reach, float* out) {
  EFT_SHARED(float, row, 64);
  row[threadIdx.x] = in[threadIdx.x];
  if (barrier == 1) __syncwarp();
  if (barrier == 2) __syncthreads();
  out[threadIdx.x] = row[threadIdx.x ^ static_cast<unsigned>(reach)];
}

// Wrong without the second barrier: what is still read is overwritten.
__global__ void overwrite_kernel(const float* in, bool waits, float* out) {
  EFT_DYNAMIC_SHARED(float, row);
  row[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  const float other = row[63 - threadIdx.x];
  if (waits) __syncthreads();
  row[threadIdx.x] = 2 * other;
  __syncthreads();
  out[threadIdx.x] = row[threadIdx.x];
}

// Wrong without the barrier: bytes that arrive behind a thread's back are there for it alone.
__global__ void copied_kernel(const float* in, bool waits, float* out) {
  EFT_SHARED(float, stage, 256);
  cp_async_16(stage + threadIdx.x * 4, in + threadIdx.x * 4);
  cp_async_commit();
  cp_async_wait<0>();
  if (waits) __syncthreads();
  for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = stage[(63 - threadIdx.x) * 4 + i];
}

// Wrong: the two halves of the block wait at different barriers.
__global__ void divergent_kernel(float* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1.0f;
}

// Wrong: a barrier after some threads returned.
__global__ void early_return_kernel(float* out) {
  if (threadIdx.x >= 48) return;
  __syncthreads();
  out[threadIdx.x] = 1.0f;
}

// Wrong: odd entries are read but never written.
template <typename T>
__global__ void unwritten_kernel(T* out) {
  EFT_SHARED(T, fixed, 32);
  EFT_DYNAMIC_SHARED(T, dynamic);
  if (threadIdx.x % 2 == 0) fixed[threadIdx.x] = dynamic[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = fixed[threadIdx.x];
  out[32 + threadIdx.x] = dynamic[threadIdx.x];
}

__global__ void warp_kernel(const int* in, int* out) {
  const unsigned all = 0xFFFFFFFFu;
  const int lane = threadIdx.x % 32, n = blockDim.x, i = threadIdx.x;
  out[0 * n + i] = __shfl_sync(all, in[i], (lane * 7) % 32);
  out[1 * n + i] = __shfl_up_sync(all, in[i], 3, 8);
  out[2 * n + i] = __shfl_down_sync(all, in[i], 5, 16);
  out[3 * n + i] = __shfl_xor_sync(all, in[i], 9);
  out[4 * n + i] = static_cast<int>(__ballot_sync(all, in[i] % 3 == 0));
  out[5 * n + i] = __any_sync(all, in[i] == 5) * 2 + __all_sync(all, in[i] >= 0);
  // Both halves of a warp at once, each with its own mask.
  const unsigned half = lane < 16 ? 0x0000FFFFu : 0xFFFF0000u;
  out[6 * n + i] = __shfl_xor_sync(half, in[i], 8);
}

// Wrong when lanes of the mask have returned or do not exist.
__global__ void mask_kernel(int64_t stop_after, int* out) {
  if (threadIdx.x >= stop_after) return;
  out[threadIdx.x] = __shfl_xor_sync(0xFFFFFFFFu, static_cast<int>(threadIdx.x), 1);
}

__global__ void mma_kernel(const float* a, const float* b, float* d) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  const float fa[4] = {a[g * 8 + t], a[(g + 8) * 8 + t], a[g * 8 + t + 4], a[(g + 8) * 8 + t + 4]};
  const float fb[2] = {b[t * 8 + g], b[(t + 4) * 8 + g]};
  float fd[4] = {0, 0, 0, 0};
  mma_tf32_16x8x8(fd, fa, fb);
  d[g * 8 + 2 * t] = fd[0];
  d[g * 8 + 2 * t + 1] = fd[1];
  d[(g + 8) * 8 + 2 * t] = fd[2];
  d[(g + 8) * 8 + 2 * t + 1] = fd[3];
}

// Two groups in flight; reads the second one too early unless `wait_all`.
__global__ void copy_kernel(const float* in, bool wait_all, float* out) {
  EFT_SHARED(float, stage, 256);
  cp_async_16(stage + threadIdx.x * 4, in + threadIdx.x * 4);
  cp_async_commit();
  cp_async_16(stage + 128 + threadIdx.x * 4, in + 128 + threadIdx.x * 4);
  cp_async_commit();
  if (wait_all) {
    cp_async_wait<0>();
  } else {
    cp_async_wait<1>();
  }
  for (int i = 0; i < 4; ++i) {
    out[threadIdx.x * 4 + i] = stage[threadIdx.x * 4 + i];
    out[128 + threadIdx.x * 4 + i] = stage[128 + threadIdx.x * 4 + i];
  }
  cp_async_wait<0>();
}

__global__ void out_of_bounds_kernel(int64_t offset, float* out) {
  EFT_SHARED(float, row, 8);
  row[offset] = 1.0f;
  out[0] = row[offset];
}

__global__ void fill_kernel(float* out) {
  if (threadIdx.x == 0) out[blockIdx.x] = static_cast<float>(blockIdx.y);
}

}  // namespace

extern "C" {

int reverse(const float* in, float* out, int64_t blocks) {
  EFT_LAUNCH(reverse_kernel, blocks, 64, 0, nullptr, in, out);
  return cudaGetLastError();
}
int racy(const float* in, float* out) {
  EFT_LAUNCH(racy_kernel, 1, 32, 0, nullptr, in, out);
  return cudaGetLastError();
}
int exchange(const float* in, int64_t barrier, int64_t reach, float* out) {
  EFT_LAUNCH(exchange_kernel, 1, 64, 0, nullptr, in, int(barrier), int(reach), out);
  return cudaGetLastError();
}
int overwrite(const float* in, int64_t waits, float* out) {
  EFT_LAUNCH(overwrite_kernel, 1, 64, 256, nullptr, in, waits != 0, out);
  return cudaGetLastError();
}
int copied(const float* in, int64_t waits, float* out) {
  EFT_LAUNCH(copied_kernel, 1, 64, 0, nullptr, in, waits != 0, out);
  return cudaGetLastError();
}
int divergent(float* out) {
  EFT_LAUNCH(divergent_kernel, 1, 64, 0, nullptr, out);
  return cudaGetLastError();
}
int early_return(float* out) {
  EFT_LAUNCH(early_return_kernel, 1, 64, 0, nullptr, out);
  return cudaGetLastError();
}
int unwritten_f32(float* out) {
  EFT_LAUNCH((unwritten_kernel<float>), 2, 32, 128, nullptr, out);
  return cudaGetLastError();
}
int unwritten_f64(double* out) {
  EFT_LAUNCH((unwritten_kernel<double>), 2, 32, 256, nullptr, out);
  return cudaGetLastError();
}
int unwritten_i32(int* out) {
  EFT_LAUNCH((unwritten_kernel<int>), 2, 32, 128, nullptr, out);
  return cudaGetLastError();
}
int warp(const int* in, int* out) {
  EFT_LAUNCH(warp_kernel, 1, 64, 0, nullptr, in, out);
  return cudaGetLastError();
}
int mask(int64_t threads, int64_t stop_after, int* out) {
  EFT_LAUNCH(mask_kernel, 1, threads, 0, nullptr, stop_after, out);
  return cudaGetLastError();
}
int mma(const float* a, const float* b, float* d) {
  EFT_LAUNCH(mma_kernel, 1, 32, 0, nullptr, a, b, d);
  return cudaGetLastError();
}
int copy(const float* in, int64_t wait_all, float* out) {
  EFT_LAUNCH(copy_kernel, 1, 32, 0, nullptr, in, wait_all != 0, out);
  return cudaGetLastError();
}
int out_of_bounds(int64_t offset, float* out) {
  EFT_LAUNCH(out_of_bounds_kernel, 1, 1, 0, nullptr, offset, out);
  return cudaGetLastError();
}
int limits(int64_t grid_y, int64_t threads, int64_t shared_bytes, int64_t allowed, float* out) {
  if (allowed > 0 && eft_fast::allow_shared(fill_kernel, allowed) != cudaSuccess) {
    return cudaGetLastError();
  }
  EFT_LAUNCH(fill_kernel, dim3(1, grid_y), threads, shared_bytes, nullptr, out);
  return cudaGetLastError();
}
}

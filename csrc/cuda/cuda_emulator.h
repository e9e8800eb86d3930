// Runs CUDA kernels on the CPU, for tests on machines without a GPU. Chosen by launch.h.
//
// Each CUDA thread of a block is a fibre; fibres switch at barriers and warp operations only, in an
// order that the test chooses, so a race shows as different bits; races in shared memory are also
// told by name in a build that watches them (cuda_emulator_race.cpp). Blocks run one after another.
// Left out on purpose: atomics (a kernel that uses one does not compile here, which is how the rule
// "equal bits on every run" is kept), __shared__ without EFT_SHARED, and allocation.
// Not shown here: speed, occupancy, bank conflicts, memory order between blocks, graphs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __align__(n) alignas(n)
#define __launch_bounds__(...)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// The codes of the CUDA runtime, as many as the launchers can meet.
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
using cudaStream_t = void*;

cudaError_t cudaGetLastError();
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
inline cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t = nullptr) {
  std::memset(target, value, bytes);
  return cudaSuccess;
}

using std::max;
using std::min;
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
template <typename T>
inline T __ldg(const T* address) {
  return *address;
}

namespace eft_fast::cuda_emulator {

// Where a kernel calls a barrier or a warp operation.
struct Site {
  const char* file;
  int line;
};

constexpr size_t kStaticShared = 48 << 10;  // bytes, all EFT_SHARED arrays of a kernel together
// Bytes of static and dynamic shared memory together, with the attribute set: 227 KB, or what the
// environment's EFT_FAST_EMULATOR_SHARED says, for the limits of other devices.
size_t shared_limit();

// Ends the launch with cudaErrorLaunchFailure and a message; called from inside a kernel.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

void run(const void* kernel,
         dim3 grid,
         dim3 block,
         size_t shared_bytes,
         void (*thread)(void*),
         void* closure);

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...),
            dim3 grid,
            dim3 block,
            size_t shared_bytes,
            void* /*stream*/,
            const Arguments&... arguments) {
  auto thread = [&] { kernel(arguments...); };
  run(
      reinterpret_cast<const void*>(kernel),
      grid,
      block,
      shared_bytes,
      [](void* closure) { (*static_cast<decltype(thread)*>(closure))(); },
      &thread);
}

// Unwritten memory holds signalling NaN, or 0xDEADBEEF where the type is no floating one. No
// access of the kernel's, so not watched for races.
template <typename T>
__attribute__((no_sanitize_thread)) void poison(void* memory, size_t bytes) {
  uint32_t pattern[2] = {0xDEADBEEF, 0xDEADBEEF};
  if (std::is_same_v<T, float>) pattern[0] = pattern[1] = 0x7FA00000;
  if (std::is_same_v<T, double>) pattern[0] = 0, pattern[1] = 0x7FF40000;
  for (size_t i = 0; i < bytes; i += 8) {
    std::memcpy(static_cast<unsigned char*>(memory) + i, pattern, min(bytes - i, size_t{8}));
  }
}

// One array per declaration and block; the first thread of a block that passes poisons it.
void* shared_array(Site site, size_t bytes, void (*poison)(void*, size_t));
void* dynamic_shared_array(void (*poison)(void*, size_t));

void block_barrier(Site site);

// Waits for all lanes of the mask, then the last one to arrive works out the results of all.
void warp_operation(Site site,
                    const char* name,
                    unsigned mask,
                    void* packet,
                    void (*resolve)(void* const packets[32], unsigned mask));

int lane_index();

template <typename T>
struct ShufflePacket {
  T value;
  int source;
};

template <typename T>
T shuffle(Site site, const char* name, unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= 8, "a shuffle moves 4 or 8 bytes");
  ShufflePacket<T> packet{value, source};
  warp_operation(site, name, mask, &packet, [](void* const packets[32], unsigned lanes) {
    T values[32] = {};
    for (int lane = 0; lane < 32; ++lane) {
      if (lanes >> lane & 1) values[lane] = static_cast<ShufflePacket<T>*>(packets[lane])->value;
    }
    for (int lane = 0; lane < 32; ++lane) {
      if (!(lanes >> lane & 1)) continue;
      auto* packet = static_cast<ShufflePacket<T>*>(packets[lane]);
      if (!(lanes >> packet->source & 1)) {
        fail("a shuffle reads lane %d, which the mask 0x%08x leaves out", packet->source, lanes);
      }
      packet->value = values[packet->source];
    }
  });
  return packet.value;
}

// Lane that a shuffle within groups of `width` reads; outside the group it reads its own value.
inline int source_up(int lane, unsigned delta, int width) {
  return (lane & (width - 1)) < static_cast<int>(delta) ? lane : lane - static_cast<int>(delta);
}
inline int source_down(int lane, unsigned delta, int width) {
  return (lane & (width - 1)) + static_cast<int>(delta) >= width ? lane
                                                                 : lane + static_cast<int>(delta);
}
inline int source_xor(int lane, int flip, int width) {
  const int source = lane ^ flip;
  return source / width > lane / width ? lane : source;
}

unsigned ballot(Site site, const char* name, unsigned mask, bool predicate);

void mma(Site site, float* d, const float* a, const float* b);
void copy_async(void* shared, const void* global);
void copy_commit();
void copy_wait(int groups_left);

}  // namespace eft_fast::cuda_emulator

// Call sites are taken from the default arguments, so kernels write the calls as on a GPU.
#define EFT_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(EFT_SITE) { eft_fast::cuda_emulator::block_barrier({file, line}); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, EFT_SITE) {
  eft_fast::cuda_emulator::warp_operation(
      {file, line}, "__syncwarp", mask, nullptr, [](void* const*, unsigned) {});
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, EFT_SITE) {
  const int first = eft_fast::cuda_emulator::lane_index() & ~(width - 1);
  return eft_fast::cuda_emulator::shuffle(
      {file, line}, "__shfl_sync", mask, value, first + (source & (width - 1)));
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EFT_SITE) {
  const int lane = eft_fast::cuda_emulator::lane_index();
  return eft_fast::cuda_emulator::shuffle({file, line},
                                          "__shfl_up_sync",
                                          mask,
                                          value,
                                          eft_fast::cuda_emulator::source_up(lane, delta, width));
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EFT_SITE) {
  const int lane = eft_fast::cuda_emulator::lane_index();
  return eft_fast::cuda_emulator::shuffle({file, line},
                                          "__shfl_down_sync",
                                          mask,
                                          value,
                                          eft_fast::cuda_emulator::source_down(lane, delta, width));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32, EFT_SITE) {
  const int lane = eft_fast::cuda_emulator::lane_index();
  return eft_fast::cuda_emulator::shuffle({file, line},
                                          "__shfl_xor_sync",
                                          mask,
                                          value,
                                          eft_fast::cuda_emulator::source_xor(lane, flip, width));
}
inline unsigned __ballot_sync(unsigned mask, bool predicate, EFT_SITE) {
  return eft_fast::cuda_emulator::ballot({file, line}, "__ballot_sync", mask, predicate);
}
inline bool __any_sync(unsigned mask, bool predicate, EFT_SITE) {
  return eft_fast::cuda_emulator::ballot({file, line}, "__any_sync", mask, predicate) != 0;
}
inline bool __all_sync(unsigned mask, bool predicate, EFT_SITE) {
  return eft_fast::cuda_emulator::ballot({file, line}, "__all_sync", mask, predicate) == mask;
}

// Rounds to the 10 mantissa bits of TF32, ties away from zero.
inline float to_tf32(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7F800000u) != 0x7F800000u) bits += 0x1000u;
  bits &= ~0x1FFFu;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline float near_tf32(float x) { return to_tf32(x); }
inline void mma_tf32_16x8x8(float d[4], const float a[4], const float b[2], EFT_SITE) {
  eft_fast::cuda_emulator::mma({file, line}, d, a, b);
}
inline void cp_async_16(void* shared, const void* global) {
  eft_fast::cuda_emulator::copy_async(shared, global);
}
inline void cp_async_commit() { eft_fast::cuda_emulator::copy_commit(); }
template <int n>
void cp_async_wait() {
  eft_fast::cuda_emulator::copy_wait(n);
}

#undef EFT_SITE

#define EFT_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  eft_fast::cuda_emulator::launch(kernel, grid, block, shared_bytes, stream, __VA_ARGS__)

#define EFT_SHARED(T, name, n)                                           \
  T* const name = static_cast<T*>(eft_fast::cuda_emulator::shared_array( \
      {__FILE__, __LINE__}, sizeof(T) * (n), &eft_fast::cuda_emulator::poison<T>))

#define EFT_DYNAMIC_SHARED(T, name) \
  T* const name = static_cast<T*>(  \
      eft_fast::cuda_emulator::dynamic_shared_array(&eft_fast::cuda_emulator::poison<T>))

// What the tests call. Schedules: 0 ascending, 1 descending, 2 random with the seed.
extern "C" void eft_cuda_emulator_schedule(int order, unsigned seed);
extern "C" const char* eft_cuda_emulator_message();  // the last failure in words, or ""

inline const char* cudaGetErrorString(cudaError_t) { return eft_cuda_emulator_message(); }

// What every formula of csrc/math needs from its number type.
//
// The formulas are templates over T: float or double on either device, or a vector of people on the
// CPU (cpu/simd.h gives the same functions for it). They therefore never branch on a value;
// select() does it.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define EFT_HD __host__ __device__ inline
#elif defined(EFT_FAST_CUDA_EMULATOR)
#define EFT_HD inline
#else
// Internal linkage: the CPU kernels are compiled once per instruction set, and the linker must
// never merge a copy with AVX-512 code into the portable one.
#define EFT_HD static inline
#endif

namespace eft_fast {
namespace math {

// Constants that depend on the precision behind T.
template <typename T>
struct Real;

template <>
struct Real<float> {
  using Scalar = float;
  // Below this t^2 the Taylor series in t^2 is at least as exact as the closed form.
  static constexpr float kSeriesLimit = 0.25f;
  // (4 eps)^2: a 6D column whose part across the first is this short, relative, has no direction.
  static constexpr float kParallelLimit = 2.27e-13f;
  static constexpr float kTiny = 9.86e-32f;  // smallest normal number / eps
};

template <>
struct Real<double> {
  using Scalar = double;
  static constexpr double kSeriesLimit = 0.01;
  static constexpr double kParallelLimit = 7.89e-31;
  static constexpr double kTiny = 1.0e-292;
};

EFT_HD float select(bool yes, float a, float b) { return yes ? a : b; }
EFT_HD double select(bool yes, double a, double b) { return yes ? a : b; }

EFT_HD float square_root(float x) { return ::sqrtf(x); }
EFT_HD double square_root(double x) { return ::sqrt(x); }
EFT_HD float exponential(float x) { return ::expf(x); }
EFT_HD double exponential(double x) { return ::exp(x); }

EFT_HD void sine_cosine(float x, float& s, float& c) {
  s = ::sinf(x);
  c = ::cosf(x);
}
EFT_HD void sine_cosine(double x, double& s, double& c) {
  s = ::sin(x);
  c = ::cos(x);
}

// out = A B, 3x3 row-major.
template <typename T>
EFT_HD void multiply3x3(const T* A, const T* B, T* out) {
  for (int i = 0; i < 3; ++i)
    for (int k = 0; k < 3; ++k)
      out[3 * i + k] = A[3 * i] * B[k] + A[3 * i + 1] * B[3 + k] + A[3 * i + 2] * B[6 + k];
}

// out = A x.
template <typename T>
EFT_HD void rotate(const T* A, const T* x, T* out) {
  for (int i = 0; i < 3; ++i) out[i] = A[3 * i] * x[0] + A[3 * i + 1] * x[1] + A[3 * i + 2] * x[2];
}

// out = A^T x.
template <typename T>
EFT_HD void rotate_transposed(const T* A, const T* x, T* out) {
  for (int k = 0; k < 3; ++k) out[k] = A[k] * x[0] + A[3 + k] * x[1] + A[6 + k] * x[2];
}

template <typename T>
EFT_HD T dot3(const T* a, const T* b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

template <typename T>
EFT_HD void cross3(const T* a, const T* b, T* out) {
  out[0] = a[1] * b[2] - a[2] * b[1];
  out[1] = a[2] * b[0] - a[0] * b[2];
  out[2] = a[0] * b[1] - a[1] * b[0];
}

}  // namespace math
}  // namespace eft_fast

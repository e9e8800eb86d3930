// Vectors of the instruction set that this file is compiled for, with the functions of
// math/scalar.h.
//
// A Vec holds one number of each of W people (kinematics, loss), or of W vertices (blending). A
// person's numbers never depend on the other lanes.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../../math/scalar.h"

#define EFT_INLINE inline __attribute__((always_inline))

namespace eft_fast {
namespace EFT_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename S>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(S));

template <typename S>
struct Word;
template <>
struct Word<float> {
  using Type = int32_t;
};
template <>
struct Word<double> {
  using Type = int64_t;
};

template <typename S>
struct Mask {
  typedef typename Word<S>::Type Raw __attribute__((vector_size(kVectorBytes), may_alias));
  Raw v;
  EFT_INLINE friend Mask operator|(Mask a, Mask b) { return {a.v | b.v}; }
};

template <typename S>
struct Vec {
  typedef S Raw __attribute__((vector_size(kVectorBytes), may_alias));
  typedef S Unaligned __attribute__((vector_size(kVectorBytes), may_alias, aligned(sizeof(S))));
  Raw v;

  Vec() = default;
  EFT_INLINE Vec(Raw raw) : v(raw) {}
  // s - 0 is s, bit by bit, so this is a plain broadcast.
  template <typename U>
  EFT_INLINE explicit Vec(U s) : v(static_cast<S>(s) - Raw{}) {}

  EFT_INLINE static Vec load(const S* p) {
    return Vec(static_cast<Raw>(*reinterpret_cast<const Unaligned*>(p)));
  }
  EFT_INLINE void store(S* p) const { *reinterpret_cast<Unaligned*>(p) = v; }

  EFT_INLINE friend Vec operator+(Vec a, Vec b) { return Vec(a.v + b.v); }
  EFT_INLINE friend Vec operator-(Vec a, Vec b) { return Vec(a.v - b.v); }
  EFT_INLINE friend Vec operator*(Vec a, Vec b) { return Vec(a.v * b.v); }
  EFT_INLINE friend Vec operator/(Vec a, Vec b) { return Vec(a.v / b.v); }
  EFT_INLINE Vec& operator+=(Vec b) {
    v += b.v;
    return *this;
  }
  EFT_INLINE Vec& operator-=(Vec b) {
    v -= b.v;
    return *this;
  }
  EFT_INLINE Vec& operator*=(Vec b) {
    v *= b.v;
    return *this;
  }
  EFT_INLINE friend Mask<S> operator<(Vec a, Vec b) { return {(typename Mask<S>::Raw)(a.v < b.v)}; }
  EFT_INLINE friend Mask<S> operator<=(Vec a, Vec b) {
    return {(typename Mask<S>::Raw)(a.v <= b.v)};
  }
  EFT_INLINE friend Mask<S> operator==(Vec a, Vec b) {
    return {(typename Mask<S>::Raw)(a.v == b.v)};
  }
};

template <typename S>
EFT_INLINE Vec<S> select(Mask<S> yes, Vec<S> a, Vec<S> b) {
  return Vec<S>(yes.v ? a.v : b.v);
}

EFT_INLINE Vec<float> square_root(Vec<float> x) {
#if defined(__AVX512F__)
  return Vec<float>((Vec<float>::Raw)_mm512_maskz_sqrt_ps(0xFFFF, (__m512)x.v));
#elif defined(__AVX2__)
  return Vec<float>((Vec<float>::Raw)_mm256_sqrt_ps((__m256)x.v));
#else
  Vec<float> out;
  for (int i = 0; i < kLanes<float>; ++i) out.v[i] = __builtin_sqrtf(x.v[i]);
  return out;
#endif
}

EFT_INLINE Vec<double> square_root(Vec<double> x) {
#if defined(__AVX512F__)
  return Vec<double>((Vec<double>::Raw)_mm512_maskz_sqrt_pd(0xFF, (__m512d)x.v));
#elif defined(__AVX2__)
  return Vec<double>((Vec<double>::Raw)_mm256_sqrt_pd((__m256d)x.v));
#else
  Vec<double> out;
  for (int i = 0; i < kLanes<double>; ++i) out.v[i] = __builtin_sqrt(x.v[i]);
  return out;
#endif
}

EFT_INLINE Vec<float> exponential(Vec<float> x) {
  Vec<float> out;
  for (int i = 0; i < kLanes<float>; ++i) out.v[i] = __builtin_expf(x.v[i]);
  return out;
}

EFT_INLINE Vec<double> exponential(Vec<double> x) {
  Vec<double> out;
  for (int i = 0; i < kLanes<double>; ++i) out.v[i] = __builtin_exp(x.v[i]);
  return out;
}

EFT_INLINE Vec<float> log_one_plus(Vec<float> x) {
  Vec<float> out;
  for (int i = 0; i < kLanes<float>; ++i) out.v[i] = __builtin_log1pf(x.v[i]);
  return out;
}

EFT_INLINE Vec<double> log_one_plus(Vec<double> x) {
  Vec<double> out;
  for (int i = 0; i < kLanes<double>; ++i) out.v[i] = __builtin_log1p(x.v[i]);
  return out;
}

// Sine and cosine: x - q pi/2 in three parts, then the minimax polynomials of the Cephes library
// (public domain) on |x| <= pi/4. Adding and subtracting kRound rounds to an integer, whose low
// bits name the quadrant. Above kLimit the parts of pi/2 no longer multiply exactly; those rare
// angles take the C library, lane by lane.
template <typename S>
struct Trigonometry;

template <>
struct Trigonometry<float> {
  static constexpr float kLimit = 8000.0f, kRound = 12582912.0f, kTwoOverPi = 0.636619772367581f;
  static constexpr float kPart1 = 1.5703125f, kPart2 = 4.837512969970703125e-4f,
                         kPart3 = 7.549789954891888e-8f;
  EFT_INLINE static Vec<float> sine(Vec<float> r, Vec<float> z) {
    Vec<float> p = Vec<float>(-1.9515295891e-4f) * z + Vec<float>(8.3321608736e-3f);
    p = p * z + Vec<float>(-1.6666654611e-1f);
    return p * z * r + r;
  }
  EFT_INLINE static Vec<float> cosine(Vec<float> z) {
    Vec<float> p = Vec<float>(2.443315711809948e-5f) * z + Vec<float>(-1.388731625493765e-3f);
    p = p * z + Vec<float>(4.166664568298827e-2f);
    return p * z * z + (Vec<float>(1.0f) - Vec<float>(0.5f) * z);
  }
  static void library(float x, float& s, float& c) {
    s = __builtin_sinf(x);
    c = __builtin_cosf(x);
  }
};

template <>
struct Trigonometry<double> {
  static constexpr double kLimit = 1.0e6, kRound = 6755399441055744.0,
                          kTwoOverPi = 0.63661977236758134308;
  static constexpr double kPart1 = 2 * 7.85398125648498535156e-1,
                          kPart2 = 2 * 3.77489470793079817668e-8,
                          kPart3 = 2 * 2.69515142907905952645e-15;
  EFT_INLINE static Vec<double> sine(Vec<double> r, Vec<double> z) {
    Vec<double> p =
        Vec<double>(1.58962301576546568060e-10) * z + Vec<double>(-2.50507477628578072866e-8);
    p = p * z + Vec<double>(2.75573136213857245213e-6);
    p = p * z + Vec<double>(-1.98412698295895385996e-4);
    p = p * z + Vec<double>(8.33333333332211858878e-3);
    p = p * z + Vec<double>(-1.66666666666666307295e-1);
    return p * z * r + r;
  }
  EFT_INLINE static Vec<double> cosine(Vec<double> z) {
    Vec<double> p =
        Vec<double>(-1.13585365213876817300e-11) * z + Vec<double>(2.08757008419747316778e-9);
    p = p * z + Vec<double>(-2.75573141792967388112e-7);
    p = p * z + Vec<double>(2.48015872888517045348e-5);
    p = p * z + Vec<double>(-1.38888888888730564116e-3);
    p = p * z + Vec<double>(4.16666666666665929218e-2);
    return p * z * z + (Vec<double>(1.0) - Vec<double>(0.5) * z);
  }
  static void library(double x, double& s, double& c) {
    s = __builtin_sin(x);
    c = __builtin_cos(x);
  }
};

template <typename S>
EFT_INLINE void sine_cosine(Vec<S> x, Vec<S>& s, Vec<S>& c) {
  using Trig = Trigonometry<S>;
  using V = Vec<S>;
  const V shifted = x * V(Trig::kTwoOverPi) + V(Trig::kRound);
  const V q = shifted - V(Trig::kRound);
  const V r = ((x - q * V(Trig::kPart1)) - q * V(Trig::kPart2)) - q * V(Trig::kPart3);
  const V z = r * r;
  const V sine = Trig::sine(r, z), cosine = Trig::cosine(z);
  typedef typename Mask<S>::Raw Int;
  const Int quadrant = (Int)shifted.v;
  const Int swap = (quadrant & 1) != 0, minus_s = (quadrant & 2) != 0,
            minus_c = ((quadrant + 1) & 2) != 0;
  const V a = select(Mask<S>{swap}, cosine, sine), b = select(Mask<S>{swap}, sine, cosine);
  s = select(Mask<S>{minus_s}, V(0) - a, a);
  c = select(Mask<S>{minus_c}, V(0) - b, b);
  bool is_large = false;
  for (int i = 0; i < kLanes<S>; ++i) is_large |= x.v[i] > Trig::kLimit || x.v[i] < -Trig::kLimit;
  if (__builtin_expect(is_large, 0))
    for (int i = 0; i < kLanes<S>; ++i)
      if (x.v[i] > Trig::kLimit || x.v[i] < -Trig::kLimit) {
        S si, ci;
        Trig::library(x.v[i], si, ci);
        s.v[i] = si;
        c.v[i] = ci;
      }
}

// Sum of the lanes, halves added pairwise: a fixed order. By shuffles, because a store and narrower
// loads of it wait for each other (48 cycles a sum, a quarter of the mesh backward).
#if defined(__x86_64__)
EFT_INLINE float sum_of(__m128 x) {
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}
EFT_INLINE double sum_of(__m128d x) { return _mm_cvtsd_f64(_mm_add_sd(x, _mm_unpackhi_pd(x, x))); }
#if defined(__AVX2__)
EFT_INLINE float sum_of(__m256 x) {
  return sum_of(_mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1)));
}
EFT_INLINE double sum_of(__m256d x) {
  return sum_of(_mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1)));
}
#endif
#if defined(__AVX512F__)
EFT_INLINE float sum_of(__m512 x) {
  return sum_of(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)));
}
EFT_INLINE double sum_of(__m512d x) {
  return sum_of(_mm256_add_pd(_mm512_castpd512_pd256(x), _mm512_extractf64x4_pd(x, 1)));
}
typedef __m512 Floats;
typedef __m512d Doubles;
#elif defined(__AVX2__)
typedef __m256 Floats;
typedef __m256d Doubles;
#else
typedef __m128 Floats;
typedef __m128d Doubles;
#endif
EFT_INLINE float lane_sum(Vec<float> x) { return sum_of((Floats)x.v); }
EFT_INLINE double lane_sum(Vec<double> x) { return sum_of((Doubles)x.v); }
#else
template <typename S>
EFT_INLINE S lane_sum(Vec<S> x) {
  S a[kLanes<S>];
  x.store(a);
  for (int half = kLanes<S> / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a[i] += a[i + half];
  return a[0];
}
#endif

}  // namespace EFT_ISA

namespace math {

template <typename S>
struct Real<EFT_ISA::Vec<S>> : Real<S> {};

}  // namespace math
}  // namespace eft_fast

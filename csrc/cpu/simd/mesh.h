// Pieces that the forward and the backward pass over the mesh share: tiles of 16 vertices, groups
// of people.
#pragma once

#include "group.h"

namespace eft_fast {
namespace EFT_ISA {

constexpr int kTile = 16;
constexpr int kTileStep = 3 * kTile;                      // values of one coefficient in a tile
constexpr int64_t kTileSize = kCoefficients * kTileStep;  // values of a tile's basis

// Value of lane l.
template <typename S>
EFT_INLINE S lane(const Vec<S>& lanes, int l) {
  return reinterpret_cast<const S*>(&lanes)[l];
}

// What the tiles need of one person: the skinning transforms [G | a] and the translation.
template <typename S>
struct PersonInputs {
  S A[kJoints][12], transl[3];
};

// Fills the entries of a group's people.
template <typename S>
void person_inputs(const Group<S>& q, PersonInputs<S>* out) {
  Vec<S> A[12], a[3];
  for (int j = 0; j < kJoints; ++j) {
    math::skin_translation(q.chain.G[j], q.chain.g[j], q.chain.J[j], a);
    for (int i = 0; i < 3; ++i) {
      for (int k = 0; k < 3; ++k) A[4 * i + k] = q.chain.G[j][3 * i + k];
      A[4 * i + 3] = a[i];
    }
    for (int l = 0; l < q.n; ++l)
      for (int e = 0; e < 12; ++e) out[l].A[j][e] = lane(A[e], l);
  }
  for (int l = 0; l < q.n; ++l)
    for (int i = 0; i < 3; ++i) out[l].transl[i] = lane(q.transl[i], l);
}

// [x0 y0 z0 x1 ...] <-> x, y, z of kLanes vertices.
template <typename S>
EFT_INLINE void store_points(S* out, Vec<S> x, Vec<S> y, Vec<S> z) {
  constexpr int W = kLanes<S>;
  alignas(64) S planes[3][W];
  x.store(planes[0]);
  y.store(planes[1]);
  z.store(planes[2]);
  for (int i = 0; i < W; ++i)
    for (int c = 0; c < 3; ++c) out[3 * i + c] = planes[c][i];
}

template <typename S>
EFT_INLINE void load_points(const S* in, Vec<S>& x, Vec<S>& y, Vec<S>& z) {
  constexpr int W = kLanes<S>;
  alignas(64) S planes[3][W];
  for (int i = 0; i < W; ++i)
    for (int c = 0; c < 3; ++c) planes[c][i] = in[3 * i + c];
  x = Vec<S>::load(planes[0]);
  y = Vec<S>::load(planes[1]);
  z = Vec<S>::load(planes[2]);
}

#if defined(__AVX2__) && !defined(__AVX512F__)
// Two rounds of shuffles within 128 bits; the halves of a register are 12 numbers apart in memory.
template <>
EFT_INLINE void store_points<float>(float* out, Vec<float> x, Vec<float> y, Vec<float> z) {
  const __m256 xy = _mm256_shuffle_ps((__m256)x.v, (__m256)y.v, 0x88);
  const __m256 yz = _mm256_shuffle_ps((__m256)y.v, (__m256)z.v, 0xDD);
  const __m256 zx = _mm256_shuffle_ps((__m256)z.v, (__m256)x.v, 0xD8);
  const __m256 a = _mm256_shuffle_ps(xy, zx, 0x88);
  const __m256 b = _mm256_shuffle_ps(yz, xy, 0xD8);
  const __m256 c = _mm256_shuffle_ps(zx, yz, 0xDD);
  _mm256_storeu_ps(out, _mm256_permute2f128_ps(a, b, 0x20));
  _mm256_storeu_ps(out + 8, _mm256_permute2f128_ps(c, a, 0x30));
  _mm256_storeu_ps(out + 16, _mm256_permute2f128_ps(b, c, 0x31));
}

template <>
EFT_INLINE void load_points<float>(const float* in, Vec<float>& x, Vec<float>& y, Vec<float>& z) {
  const __m256 p = _mm256_loadu_ps(in), q = _mm256_loadu_ps(in + 8), r = _mm256_loadu_ps(in + 16);
  const __m256 a = _mm256_permute2f128_ps(p, q, 0x30);
  const __m256 b = _mm256_permute2f128_ps(p, r, 0x21);
  const __m256 c = _mm256_permute2f128_ps(q, r, 0x30);
  const __m256 xy = _mm256_shuffle_ps(b, c, 0x9E);
  const __m256 yz = _mm256_shuffle_ps(a, b, 0x49);
  x = Vec<float>((Vec<float>::Raw)_mm256_shuffle_ps(a, xy, 0x8C));
  y = Vec<float>((Vec<float>::Raw)_mm256_shuffle_ps(yz, xy, 0xD8));
  z = Vec<float>((Vec<float>::Raw)_mm256_shuffle_ps(yz, c, 0xCD));
}
#endif

#if defined(__AVX512F__)
// Two-register permutes; index i of the second register is 16 + i.
template <>
EFT_INLINE void store_points<float>(float* out, Vec<float> x, Vec<float> y, Vec<float> z) {
  const __m512i xy0 = _mm512_setr_epi32(0, 16, 0, 1, 17, 0, 2, 18, 0, 3, 19, 0, 4, 20, 0, 5);
  const __m512i xy1 = _mm512_setr_epi32(21, 0, 6, 22, 0, 7, 23, 0, 8, 24, 0, 9, 25, 0, 10, 26);
  const __m512i xy2 = _mm512_setr_epi32(0, 11, 27, 0, 12, 28, 0, 13, 29, 0, 14, 30, 0, 15, 31, 0);
  const __m512i z0 = _mm512_setr_epi32(0, 0, 0, 0, 0, 1, 0, 0, 2, 0, 0, 3, 0, 0, 4, 0);
  const __m512i z1 = _mm512_setr_epi32(0, 5, 0, 0, 6, 0, 0, 7, 0, 0, 8, 0, 0, 9, 0, 0);
  const __m512i z2 = _mm512_setr_epi32(10, 0, 0, 11, 0, 0, 12, 0, 0, 13, 0, 0, 14, 0, 0, 15);
  __m512 a = _mm512_permutex2var_ps((__m512)x.v, xy0, (__m512)y.v);
  __m512 b = _mm512_permutex2var_ps((__m512)x.v, xy1, (__m512)y.v);
  __m512 c = _mm512_permutex2var_ps((__m512)x.v, xy2, (__m512)y.v);
  a = _mm512_mask_permutexvar_ps(a, 0x4924, z0, (__m512)z.v);
  b = _mm512_mask_permutexvar_ps(b, 0x2492, z1, (__m512)z.v);
  c = _mm512_mask_permutexvar_ps(c, 0x9249, z2, (__m512)z.v);
  _mm512_storeu_ps(out, a);
  _mm512_storeu_ps(out + 16, b);
  _mm512_storeu_ps(out + 32, c);
}

template <>
EFT_INLINE void load_points<float>(const float* in, Vec<float>& x, Vec<float>& y, Vec<float>& z) {
  const __m512 a = _mm512_loadu_ps(in), b = _mm512_loadu_ps(in + 16), c = _mm512_loadu_ps(in + 32);
  const __m512i x01 = _mm512_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 0, 0, 0, 0, 0);
  const __m512i y01 = _mm512_setr_epi32(1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 0, 0, 0, 0, 0);
  const __m512i z01 = _mm512_setr_epi32(2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 0, 0, 0, 0, 0, 0);
  const __m512i x2 = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 4, 7, 10, 13);
  const __m512i y2 = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 5, 8, 11, 14);
  const __m512i z2 = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 6, 9, 12, 15);
  const __m512 x0 = _mm512_permutex2var_ps(a, x01, b);
  const __m512 y0 = _mm512_permutex2var_ps(a, y01, b);
  const __m512 z0 = _mm512_permutex2var_ps(a, z01, b);
  x = Vec<float>((Vec<float>::Raw)_mm512_mask_permutexvar_ps(x0, 0xF800, x2, c));
  y = Vec<float>((Vec<float>::Raw)_mm512_mask_permutexvar_ps(y0, 0xF800, y2, c));
  z = Vec<float>((Vec<float>::Raw)_mm512_mask_permutexvar_ps(z0, 0xFC00, z2, c));
}
#endif

}  // namespace EFT_ISA
}  // namespace eft_fast

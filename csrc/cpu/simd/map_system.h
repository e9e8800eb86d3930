// Symmetric systems of the MAP solver: J^T J in panels of four rows, and Cholesky's U^T U by the
// same kernel.
//
// Matrices have rows of kMapPadded numbers and kSystemRows rows, of which the upper triangle
// counts: row i from its diagonal on. What stands left of it in the same vector is finite and never
// used. Unknown 85 and above have an identity row.
#pragma once

#include "vec.h"
//
#include "../../math/map.h"

namespace eft_fast {
namespace EFT_ISA {

constexpr int kPanel = 4;
constexpr int kSystemRows = (kMapUnknowns + kPanel - 1) / kPanel * kPanel;

// out[i + p][j + ...] = in[i + p][j + ...] +- sum_r rows[r][i + p] rows[r][j + ...], N vectors
// wide.
template <typename S, int N, bool kSubtract>
EFT_INLINE void update_tile(const S* rows, int count, int i, int j, const S* in, S* out) {
  using V = Vec<S>;
  constexpr int W = kLanes<S>;
  V sum[kPanel][N];
#pragma GCC unroll 4
  for (int p = 0; p < kPanel; ++p)
#pragma GCC unroll 3
    for (int v = 0; v < N; ++v) sum[p][v] = V::load(in + (i + p) * kMapPadded + j + v * W);
  for (int r = 0; r < count; ++r) {
    const S* row = rows + r * kMapPadded;
    V right[N];
#pragma GCC unroll 3
    for (int v = 0; v < N; ++v) right[v] = V::load(row + j + v * W);
#pragma GCC unroll 4
    for (int p = 0; p < kPanel; ++p) {
      const V left(row[i + p]);
#pragma GCC unroll 3
      for (int v = 0; v < N; ++v) {
        if (kSubtract) {
          sum[p][v] -= left * right[v];
        } else {
          sum[p][v] += left * right[v];
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < kPanel; ++p)
#pragma GCC unroll 3
    for (int v = 0; v < N; ++v) sum[p][v].store(out + (i + p) * kMapPadded + j + v * W);
}

// The same for the whole of rows i..i+3.
template <typename S, bool kSubtract>
EFT_INLINE void update_panel(const S* rows, int count, int i, const S* in, S* out) {
  constexpr int W = kLanes<S>;
  int j = i / W * W;
  for (; j + 3 * W <= kMapPadded; j += 3 * W)
    update_tile<S, 3, kSubtract>(rows, count, i, j, in, out);
  if (j + 2 * W <= kMapPadded) {
    update_tile<S, 2, kSubtract>(rows, count, i, j, in, out);
  } else if (j + W <= kMapPadded) {
    update_tile<S, 1, kSubtract>(rows, count, i, j, in, out);
  }
}

// H += J^T J of `count` rows.
template <typename S>
void add_squares(const S* rows, int count, S* H) {
  for (int i = 0; i < kSystemRows; i += kPanel) update_panel<S, false>(rows, count, i, H, H);
}

// U^T U = H + damping diag(H), and 1 / U_kk; false where that is not positive definite.
template <typename S>
bool factorise(const S* H, S damping, S* U, S* inverse) {
  using V = Vec<S>;
  constexpr int W = kLanes<S>;
  for (int i = 0; i < kSystemRows; i += kPanel) {
    update_panel<S, true>(U, i, i, H, U);
    for (int k = i; k < i + kPanel; ++k) U[k * kMapPadded + k] += damping * H[k * kMapPadded + k];
    for (int k = i; k < i + kPanel; ++k) {
      S* row = U + k * kMapPadded;
      const S pivot = row[k];
      if (!(pivot > S(0))) return false;
      inverse[k] = S(1) / math::square_root(pivot);
      const V scale(inverse[k]);
      for (int j = i / W * W; j < kMapPadded; j += W) (V::load(row + j) * scale).store(row + j);
      for (int below = k + 1; below < i + kPanel; ++below) {
        S* other = U + below * kMapPadded;
        const V factor(row[below]);
        for (int j = i / W * W; j < kMapPadded; j += W)
          (V::load(other + j) - factor * V::load(row + j)).store(other + j);
      }
    }
  }
  return true;
}

// step = -(U^T U)^-1 gradient; all of kMapPadded, zero from unknown 85 on.
template <typename S>
void solve_factorised(const S* U, const S* inverse, const S* gradient, S* step) {
  using V = Vec<S>;
  constexpr int W = kLanes<S>;
  alignas(64) S right[kMapPadded], middle[kMapPadded];
  for (int j = 0; j < kMapPadded; j += W) {
    (V(0) - V::load(gradient + j)).store(right + j);
    V(0).store(step + j);
  }
  for (int k = 0; k < kMapUnknowns; ++k) {
    middle[k] = right[k] * inverse[k];
    const V value(middle[k]);
    for (int j = k / W * W; j < kMapPadded; j += W)
      (V::load(right + j) - value * V::load(U + k * kMapPadded + j)).store(right + j);
  }
  for (int k = kMapUnknowns - 1; k >= 0; --k) {
    V sum(0);
    for (int j = k / W * W; j < kMapPadded; j += W)
      sum += V::load(U + k * kMapPadded + j) * V::load(step + j);
    step[k] = (middle[k] - lane_sum(sum)) * inverse[k];
  }
}

}  // namespace EFT_ISA
}  // namespace eft_fast

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

// The triangle of a panel's own four columns, row by row: U_kk, U_k,k+1, ... and 1 / U_kk. By
// itself first, in scalars, so that the panel's vectors are read and written once.
template <typename S>
struct PanelTriangle {
  S U[kPanel][kPanel], inverse[kPanel];

  // From the rows of the panel, updated by all rows above; false where they are not positive
  // definite.
  bool factorise(const S* rows) {
    for (int p = 0; p < kPanel; ++p)
      for (int q = p; q < kPanel; ++q) U[p][q] = rows[p * kMapPadded + q];
    for (int p = 0; p < kPanel; ++p) {
      if (!(U[p][p] > S(0))) return false;
      inverse[p] = S(1) / math::square_root(U[p][p]);
      for (int q = p; q < kPanel; ++q) U[p][q] *= inverse[p];
      for (int r = p + 1; r < kPanel; ++r)
        for (int q = r; q < kPanel; ++q) U[r][q] -= U[p][r] * U[p][q];
    }
    return true;
  }
};

// U^T U = H + damping diag(H), and 1 / U_kk; false where that is not positive definite.
template <typename S>
bool factorise(const S* H, S damping, S* U, S* inverse) {
  using V = Vec<S>;
  constexpr int W = kLanes<S>;
  for (int i = 0; i < kSystemRows; i += kPanel) {
    S* rows = U + i * kMapPadded;
    update_panel<S, true>(U, i, i, H, U);
    for (int p = 0; p < kPanel; ++p)
      rows[p * kMapPadded + i + p] += damping * H[(i + p) * kMapPadded + i + p];
    PanelTriangle<S> triangle;
    if (!triangle.factorise(rows + i)) return false;
    for (int p = 0; p < kPanel; ++p) inverse[i + p] = triangle.inverse[p];
    for (int j = i / W * W; j < kMapPadded; j += W) {
      V row[kPanel];
#pragma GCC unroll 4
      for (int p = 0; p < kPanel; ++p) row[p] = V::load(rows + p * kMapPadded + j);
#pragma GCC unroll 4
      for (int p = 0; p < kPanel; ++p) {
        row[p] *= V(triangle.inverse[p]);
#pragma GCC unroll 4
        for (int r = p + 1; r < kPanel; ++r) row[r] -= V(triangle.U[p][r]) * row[p];
      }
#pragma GCC unroll 4
      for (int p = 0; p < kPanel; ++p) row[p].store(rows + p * kMapPadded + j);
    }
  }
  return true;
}

// step = -(U^T U)^-1 gradient; all of kMapPadded, zero from unknown 85 on. In panels, because a
// vector that is read soon after one of its numbers was written waits for it.
template <typename S>
void solve_factorised(const S* U, const S* inverse, const S* gradient, S* step) {
  using V = Vec<S>;
  constexpr int W = kLanes<S>;
  alignas(64) S right[kMapPadded], middle[kSystemRows];
  for (int j = 0; j < kMapPadded; j += W) {
    (V(0) - V::load(gradient + j)).store(right + j);
    V(0).store(step + j);
  }
  for (int i = 0; i < kSystemRows; i += kPanel) {
    const S* rows = U + i * kMapPadded;
    for (int p = 0; p < kPanel; ++p) {
      S value = right[i + p];
      for (int q = 0; q < p; ++q) value -= rows[q * kMapPadded + i + p] * middle[i + q];
      middle[i + p] = value * inverse[i + p];
    }
    for (int j = i / W * W; j < kMapPadded; j += W) {
      V value = V::load(right + j);
#pragma GCC unroll 4
      for (int p = 0; p < kPanel; ++p)
        value -= V(middle[i + p]) * V::load(rows + p * kMapPadded + j);
      value.store(right + j);
    }
  }
  for (int i = kSystemRows - kPanel; i >= 0; i -= kPanel) {
    const S* rows = U + i * kMapPadded;
    V sum[kPanel];
#pragma GCC unroll 4
    for (int p = 0; p < kPanel; ++p) sum[p] = V(0);
    for (int j = i / W * W; j < kMapPadded; j += W) {
      const V found = V::load(step + j);
#pragma GCC unroll 4
      for (int p = 0; p < kPanel; ++p) sum[p] += V::load(rows + p * kMapPadded + j) * found;
    }
    for (int p = kPanel - 1; p >= 0; --p) {
      S value = middle[i + p] - lane_sum(sum[p]);
      for (int q = p + 1; q < kPanel; ++q) value -= rows[p * kMapPadded + i + q] * step[i + q];
      step[i + p] = value * inverse[i + p];
    }
  }
}

}  // namespace EFT_ISA
}  // namespace eft_fast

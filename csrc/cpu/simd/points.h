// Points of a group of people without the mesh: kinematics, contracted rows, and the way back.
//
// Rows are blended with lanes = rows (so that one person alone is as cheap as it can be),
// everything else with lanes = people.
#pragma once

#include "group.h"

namespace eft_fast {
namespace EFT_ISA {

// Register tile of the blends: people times vectors of rows or of coefficients.
template <typename S>
constexpr int kBlendPeople =
    kVectorBytes == 64 ? (kLanes<S> < 8 ? kLanes<S> : 8) : (kLanes<S> < 4 ? kLanes<S> : 4);
constexpr int kBlendVectors = kVectorBytes == 64 ? 3 : 2;

// A worker's memory for one group; the sizes depend on the plan.
template <typename S>
struct PointsWork {
  Group<S> q;
  GroupGradients<S> g;
  Vec<S> c[kCoefficients];
  S c_rows[kLanes<S>][kColumnsPadded];  // gc, person by person
  Vec<S>* rows;                         // [3][R] y, lanes = people
  Vec<S>* g_rows;                       // its gradient
  S* rows_flat;                         // [W][3R] the same, person by person
  Vec<S>* source;                       // [S][3]
  Vec<S>* g_source;
  Vec<S>* image;  // [K][2] projected outputs
  Vec<S>* g_image;
  Vec<S>* outputs;  // [K][3] outputs, or keypoints given
};

template <typename S>
PointsWork<S>& points_work(const cpu::PointsData<S>& data) {
  const size_t vectors = 6 * data.rows + 6 * data.sources + 7 * data.outputs;
  const size_t bytes = (sizeof(PointsWork<S>) + 63) / 64 * 64 + vectors * sizeof(Vec<S>) +
                       3 * data.rows * kLanes<S> * sizeof(S) + 64;
  char* memory = static_cast<char*>(cpu::scratch(1, bytes));
  auto& work = *reinterpret_cast<PointsWork<S>*>(memory);
  auto* next = reinterpret_cast<Vec<S>*>(memory + (sizeof(PointsWork<S>) + 63) / 64 * 64);
  auto take = [&next](int64_t count) {
    Vec<S>* here = next;
    next += count;
    return here;
  };
  work.rows = take(3 * data.rows);
  work.g_rows = take(3 * data.rows);
  work.source = take(3 * data.sources);
  work.g_source = take(3 * data.sources);
  work.image = take(2 * data.outputs);
  work.g_image = take(2 * data.outputs);
  work.outputs = take(3 * data.outputs);
  work.rows_flat = reinterpret_cast<S*>(next);
  return work;
}

// out[n][v] += sum_k lanes[k][first + n] * matrix[k][v]: N people times M vectors of a matrix with
// `step` columns. With kFromOne the first row counts once (its coefficient is 1) and starts the
// sum.
template <typename S, int N, int M, bool kFromOne>
EFT_INLINE void multiply_tile(const S* matrix,
                              int64_t step,
                              int64_t count,
                              const Vec<S>* lanes,
                              int first,
                              S* out,
                              int64_t out_step) {
  constexpr int W = kLanes<S>;
  using V = Vec<S>;
  V sum[N][M];
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) sum[n][m] = kFromOne ? V::load(matrix + m * W) : V(0);
  for (int64_t k = kFromOne ? 1 : 0; k < count; ++k) {
    const S* row = matrix + k * step;
    const S* f = reinterpret_cast<const S*>(lanes + k) + first;
    V b[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) b[m] = V::load(row + m * W);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const V value(f[n]);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) sum[n][m] += value * b[m];
    }
  }
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) sum[n][m].store(out + n * out_step + m * W);
}

// Columns v.. of N people, M vectors at a time, the rest with narrower tiles.
template <typename S, int N, int M, bool kFromOne>
EFT_INLINE void multiply_columns(const S* matrix,
                                 int64_t columns,
                                 int64_t count,
                                 const Vec<S>* lanes,
                                 int first,
                                 S* out,
                                 int64_t v = 0) {
  constexpr int W = kLanes<S>;
  for (; v + M * W <= columns; v += M * W)
    multiply_tile<S, N, M, kFromOne>(matrix + v, columns, count, lanes, first, out + v, columns);
  if constexpr (M > 1) {
    if (v < columns)
      multiply_columns<S, N, M / 2, kFromOne>(matrix, columns, count, lanes, first, out, v);
  }
}

// One or two people alone: more columns at a time keep the multipliers busy.
template <int N>
constexpr int kBlendColumns = N == 1 ? 8 : (N == 2 ? (kVectorBytes == 64 ? 6 : 4) : kBlendVectors);

// out[person][columns] = lanes^T matrix for the group's n people; columns is a multiple of the
// vector.
template <typename S, bool kFromOne, int N = kBlendPeople<S>>
void multiply(const S* matrix,
              int64_t columns,
              int64_t count,
              const Vec<S>* lanes,
              int n,
              S* out,
              int first = 0) {
  for (; first + N <= n; first += N)
    multiply_columns<S, N, kBlendColumns<N>, kFromOne>(
        matrix, columns, count, lanes, first, out + first * columns);
  if constexpr (N > 1) {
    if (first < n) multiply<S, kFromOne, N / 2>(matrix, columns, count, lanes, n, out, first);
  }
}

// Kinematics and sources of the group at b0; transl is left out.
template <typename S>
void make_sources(const cpu::BodyInputs<S>& body,
                  const cpu::PointsData<S>& data,
                  int64_t b0,
                  PointsWork<S>& work) {
  using V = Vec<S>;
  Group<S>& q = work.q;
  pose_group(body, b0, q);
  coefficients(q, work.c);
  const int64_t R = data.rows, columns = 3 * R;
  multiply<S, true>(data.basis, columns, kCoefficients, work.c, q.n, work.rows_flat);
  load_lanes(work.rows_flat, columns, 0, q.n, work.rows);

  for (int64_t i = 0; i < 3 * data.sources; ++i) work.source[i] = V(0);
  for (int64_t m = 0; m < data.joint_terms; ++m) {
    const int32_t* index = data.joint_index + 2 * m;
    for (int i = 0; i < 3; ++i)
      work.source[3 * index[1] + i] += V(data.joint_weight[m]) * q.chain.g[index[0]][i];
  }
  int joint = -1;
  V a[3] = {V(0), V(0), V(0)};
  for (int64_t t = 0; t < data.terms; ++t) {
    const int32_t* index = data.term_index + 3 * t;
    const int64_t r = index[0];
    if (index[1] != joint) {
      joint = index[1];
      math::skin_translation(q.chain.G[joint], q.chain.g[joint], q.chain.J[joint], a);
    }
    const V y[3] = {work.rows[r], work.rows[R + r], work.rows[2 * R + r]};
    V turned[3];
    math::rotate(q.chain.G[joint], y, turned);
    const V alpha(data.term_weight[2 * t]), omega(data.term_weight[2 * t + 1]);
    for (int i = 0; i < 3; ++i) {
      V& out = work.source[3 * index[2] + i];
      out += alpha * turned[i];
      out += omega * a[i];
    }
  }
}

// From work.g_source to the gradients of the body's inputs; adds nothing to transl.
template <typename S>
void sources_backward(const cpu::BodyInputs<S>& body,
                      const cpu::PointsData<S>& data,
                      PointsWork<S>& work,
                      const cpu::BodyGradients<S>& out,
                      S beta_slope) {
  using V = Vec<S>;
  const Group<S>& q = work.q;
  GroupGradients<S>& g = work.g;
  const int64_t R = data.rows, columns = 3 * R;
  for (int j = 0; j < kJoints; ++j) {
    for (int e = 0; e < 9; ++e) g.G[j][e] = V(0);
    for (int i = 0; i < 3; ++i) g.a[j][i] = g.joints[j][i] = V(0);
  }
  for (int i = 0; i < 3; ++i) {
    g.transl[i] = V(0);
    for (int64_t s = 0; s < data.sources; ++s)
      g.transl[i] += V(data.transl_weight[s]) * work.g_source[3 * s + i];
  }
  for (int64_t m = 0; m < data.joint_terms; ++m) {
    const int32_t* index = data.joint_index + 2 * m;
    for (int i = 0; i < 3; ++i)
      g.joints[index[0]][i] += V(data.joint_weight[m]) * work.g_source[3 * index[1] + i];
  }
  for (int64_t i = 0; i < columns; ++i) work.g_rows[i] = V(0);
  for (int64_t t = 0; t < data.terms; ++t) {
    const int32_t* index = data.term_index + 3 * t;
    const int64_t r = index[0];
    const int j = index[1];
    const V* gp = work.g_source + 3 * index[2];
    const V alpha(data.term_weight[2 * t]), omega(data.term_weight[2 * t + 1]);
    const V ga[3] = {alpha * gp[0], alpha * gp[1], alpha * gp[2]};
    const V y[3] = {work.rows[r], work.rows[R + r], work.rows[2 * R + r]};
    V gy[3];
    math::rotate_transposed(q.chain.G[j], ga, gy);
    for (int i = 0; i < 3; ++i) {
      for (int k = 0; k < 3; ++k) g.G[j][3 * i + k] += ga[i] * y[k];
      g.a[j][i] += omega * gp[i];
      work.g_rows[i * R + r] += gy[i];
    }
  }
  multiply<S, false>(data.basis_t, kColumnsPadded, columns, work.g_rows, q.n, &work.c_rows[0][0]);
  load_lanes(&work.c_rows[0][0], kColumnsPadded, 0, q.n, g.c);
  for (int k = 0; k < kBetas; ++k) g.c[1 + k] += V(beta_slope) * q.betas[k];
  pose_group_backward(body, q, g, out);
}

}  // namespace EFT_ISA
}  // namespace eft_fast

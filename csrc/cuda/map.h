// One person's body, energy, model and systems, by one block. Threads share out joints, rows and
// entries; every sum has one owner and one order, so a person's bits depend on nobody else.
#pragma once

#include "map_arena.h"

namespace eft_fast {

// f(i) for 0..count-1, shared out over the block.
template <typename F>
__device__ inline void map_each(int64_t count, F f) {
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) f(static_cast<int>(i));
}

template <typename T>
struct MapBlock {
  const MapInputs<T>& in;
  MapArena<T>& at;
  int64_t b;
  T frame;
  const T* pinhole;

  // Starts, targets and the list of rows. Ends behind a barrier.
  __device__ void load(MapDeviceBody<T>& body) {
    const T* begin = in.rotmat + b * 9 * kJoints;
    const T* centre = in.rotmat0 + b * 9 * kJoints;
    frame = in.frame[b];
    pinhole = in.pinhole ? in.pinhole + 4 * b : nullptr;
    map_each(kJoints, [&](int j) {
      T q[4] = {T(1), T(0), T(0), T(0)};
      if (begin != centre) {
        T between[9];
        for (int i = 0; i < 3; ++i)
          for (int k = 0; k < 3; ++k) {
            between[3 * i + k] = T(0);
            for (int e = 0; e < 3; ++e)
              between[3 * i + k] += centre[9 * j + 3 * e + i] * begin[9 * j + 3 * e + k];
          }
        math::matrix_to_quaternion(between, q);
      }
      for (int e = 0; e < 4; ++e) {
        at.q[4 * j + e] = q[e];
        body.turn[4 * j + e] = T(e == 0);
      }
      for (int e = 0; e < 9; ++e) at.start[9 * j + e] = begin[9 * j + e];
      int depth = 0;
      for (int p = in.parents[j]; p >= 0; p = in.parents[p]) ++depth;
      at.depth[j] = depth;
    });
    map_each(kBetas, [&](int k) { body.betas[k] = in.betas[b * kBetas + k]; });
    map_each(3, [&](int i) { body.cam[i] = in.cam[3 * b + i]; });
    map_each(in.sources, [&](int s) { gather_target(s); });
    __syncthreads();
    if (threadIdx.x == 0) {
      int rows = 0, levels = 0;
      for (int s = 0; s < in.sources; ++s) {
        if (at.target[7 * s] != T(0))
          for (int i = 0; i < 2; ++i) at.row_of[rows++] = 5 * s + i;
        if (at.target[7 * s + 3] != T(0))
          for (int i = 2; i < 5; ++i) at.row_of[rows++] = 5 * s + i;
      }
      for (int j = 0; j < kJoints; ++j) levels = at.depth[j] > levels ? at.depth[j] : levels;
      at.sizes[0] = rows;
      at.sizes[1] = levels;
    }
    __syncthreads();
  }

  // Weight and mean target of the outputs of a source, 2D then 3D, and the energy about the means.
  __device__ void gather_target(int s) {
    T* target = at.target + 7 * s;
    double spare = 0;
    for (int e = 0; e < 7; ++e) target[e] = T(0);
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t k = 0; k < in.outputs; ++k) {
        if (in.output_index[k] != s) continue;
        spare += add_target(pass, 2, in.keypoints + (b * in.outputs + k) * 3, target);
        if (in.points3d)
          spare += add_target(pass, 3, in.points3d + (b * in.outputs + k) * 4, target + 3);
      }
      for (int first = 0; pass == 0 && first < 4; first += 3)
        for (int i = 0; target[first] > T(0) && i < 2 + first / 3; ++i)
          target[first + 1 + i] = target[first + 1 + i] / target[first];
    }
    at.spare[s] = spare;
  }

  __device__ double add_target(int pass, int dims, const T* given, T* target) {
    const T weight = given[dims];
    double spare = 0;
    if (!(weight > T(0))) return spare;
    if (pass == 0) target[0] += weight;
    for (int i = 0; i < dims; ++i) {
      if (pass == 0) target[1 + i] += weight * given[i];
      const double off = given[i] - target[1 + i];
      if (pass == 1) spare += weight * off * off;
    }
    return spare;
  }

  // From a state to its body and energies. Begins and ends behind a barrier.
  __device__ void measure(MapDeviceBody<T>& body) {
    map_each(kJoints, [&](int j) {
      T step[9], both[4];
      math::quaternion_to_matrix(body.turn + 4 * j, step);
      math::multiply3x3(at.start + 9 * j, step, body.R + 9 * j);
      math::multiply_quaternions(at.q + 4 * j, body.turn + 4 * j, both);
      body.slope[j] = math::quaternion_log(both, body.omega + 3 * j);
      math::rest_joint(in.skeleton + j * 3 * kSkeletonRow, body.betas, body.rest + 3 * j);
    });
    __syncthreads();
    for (int level = 0; level <= at.sizes[1]; ++level) {
      map_each(kJoints, [&](int j) {
        if (at.depth[j] == level) place_joint(body, j);
      });
      __syncthreads();
    }
    map_each(kMapRow, [&](int k) {
      const int e = k / kJoints, m = k % kJoints;
      at.c[k] = k < kMapShape      ? body.R[9 * m + e] - T(e % 4 == 0)
                : k < kMapTemplate ? body.betas[k - kMapShape]
                                   : T(k == kMapTemplate);
    });
    map_each(kMapUnknowns, [&](int i) { body.x[i] = coordinate(body, i); });
    __syncthreads();
    multiply_rows(body);
    map_each(kMapUnknowns, [&](int i) {
      T sum = T(0);
      for (int j = 0; j < kMapUnknowns; ++j) sum += in.precision[j * kMapUnknowns + i] * body.x[j];
      body.pull[i] = sum;
      at.prior_part[i] = static_cast<double>(body.x[i]) * sum;
    });
    __syncthreads();
    map_each(in.terms, [&](int t) { move_term(body, t); });
    __syncthreads();
    map_each(in.sources, [&](int s) {
      place_source(body, s);
      at.part[s] = source_energy(body, s);
    });
    __syncthreads();
    if (threadIdx.x == 0) {
      double data = 0, prior = 0;
      for (int s = 0; s < in.sources; ++s) data += at.part[s];
      for (int i = 0; i < kMapUnknowns; ++i) prior += at.prior_part[i];
      *body.data = data;
      *body.energy = data + prior;
    }
    __syncthreads();
  }

  __device__ void place_joint(MapDeviceBody<T>& body, int j) {
    const int p = in.parents[j];
    T* G = body.G + 9 * j;
    T* g = body.g + 3 * j;
    const T* rest = body.rest + 3 * j;
    T offset[3], turned[3];
    if (p < 0) {
      for (int e = 0; e < 9; ++e) G[e] = body.R[9 * j + e];
      for (int i = 0; i < 3; ++i) g[i] = rest[i];
    } else {
      for (int i = 0; i < 3; ++i) offset[i] = rest[i] - body.rest[3 * p + i];
      math::chain_step(body.G + 9 * p, body.g + 3 * p, body.R + 9 * j, offset, G, g);
    }
    math::rotate(G, rest, turned);
    for (int i = 0; i < 3; ++i) body.shift[3 * j + i] = g[i] - turned[i];
  }

  __device__ T coordinate(const MapDeviceBody<T>& body, int i) const {
    const T* cam0 = in.cam0 + 3 * b;
    if (i < kMapTurns) return body.omega[i];
    if (i < kMapScale) return body.betas[i - kMapTurns] - in.betas0[b * kBetas + i - kMapTurns];
    if (i == kMapScale) return math::logarithm(body.cam[0] / cam0[0]);
    return (body.cam[i - kMapScale] - cam0[i - kMapScale]) / frame;
  }

  // y = D c, a warp per number.
  __device__ void multiply_rows(MapDeviceBody<T>& body) {
    const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
    for (int64_t n = threadIdx.x / 32; n < 3 * in.rows; n += warps) {
      T sum = T(0);
      for (int k = lane; k < kMapRow; k += 32) sum += in.row_data[n * kMapRow + k] * at.c[k];
      for (int flip = 16; flip > 0; flip /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, flip);
      if (lane == 0) body.y[n] = sum;
    }
  }

  __device__ void move_term(MapDeviceBody<T>& body, int t) {
    const int32_t* index = in.term_index + 3 * t;
    T turned[3];
    math::rotate(body.G + 9 * index[1], body.y + 3 * index[0], turned);
    for (int i = 0; i < 3; ++i)
      body.moved[3 * t + i] = in.term_weight[2 * t] * turned[i] +
                              in.term_weight[2 * t + 1] * body.shift[3 * index[1] + i];
  }

  __device__ void place_source(MapDeviceBody<T>& body, int s) {
    T sum[3] = {T(0), T(0), T(0)};
    for (int64_t t = 0; t < in.terms; ++t)
      for (int i = 0; in.term_index[3 * t + 2] == s && i < 3; ++i) sum[i] += body.moved[3 * t + i];
    for (int64_t m = 0; m < in.joint_terms; ++m)
      for (int i = 0; in.joint_index[2 * m + 1] == s && i < 3; ++i)
        sum[i] += in.joint_weight[m] * body.g[3 * in.joint_index[2 * m] + i];
    for (int i = 0; i < 3; ++i) body.points[3 * s + i] = sum[i];
  }

  __device__ double source_energy(const MapDeviceBody<T>& body, int s) const {
    const T* target = at.target + 7 * s;
    const T* X = body.points + 3 * s;
    double sum = at.spare[s];
    if (target[0] != T(0)) {
      const math::MapImage<T> image = math::map_project(body.cam, frame, pinhole, X);
      for (int i = 0; i < 2; ++i) {
        const double error = image.u[i] - target[1 + i];
        sum += target[0] * error * error;
      }
    }
    for (int i = 0; target[3] != T(0) && i < 3; ++i) {
      const double error = X[i] - target[4 + i];
      sum += target[3] * error * error;
    }
    return sum;
  }

  // Half the gradient and the Gauss-Newton Hessian at a measured body. Ends behind a barrier.
  __device__ void make_model(const MapDeviceBody<T>& body) {
    map_each(kJoints, [&](int j) {
      math::right_jacobian_inverse(body.omega + 3 * j, body.slope[j], at.A + 9 * j);
    });
    map_each(kBetas, [&](int k) { shape_chain(body, k); });
    __syncthreads();
    begin_with_prior(body);
    const int batch = static_cast<int>(map_row_batch(sizeof(T)));
    for (int first = 0; first < at.sizes[0]; first += batch) {
      const int left = at.sizes[0] - first;
      add_rows(body, at.row_of + first, left < batch ? left : batch);
    }
    __syncthreads();
    if (in.free) hold_fixed();
    __syncthreads();
  }

  // Joints and skinning translations by one beta.
  __device__ void shape_chain(const MapDeviceBody<T>& body, int k) {
    for (int j = 0; j < kJoints; ++j) {
      const int p = in.parents[j];
      T own[3], bone[3], turned[3];
      for (int i = 0; i < 3; ++i) {
        own[i] = in.skeleton[(3 * j + i) * kSkeletonRow + 1 + k];
        bone[i] = p < 0 ? own[i] : own[i] - in.skeleton[(3 * p + i) * kSkeletonRow + 1 + k];
      }
      if (p >= 0) math::rotate(body.G + 9 * p, bone, turned);
      T* place = at.place + 3 * (kJoints * k + j);
      for (int i = 0; i < 3; ++i)
        place[i] = p < 0 ? bone[i] : at.place[3 * (kJoints * k + p) + i] + turned[i];
      math::rotate(body.G + 9 * j, own, turned);
      for (int i = 0; i < 3; ++i) at.shift[3 * (kJoints * k + j) + i] = place[i] - turned[i];
    }
  }

  // Column j of A: its entries stand at first..first + count - 1.
  __device__ int column(int j, int& count, T* values) const {
    const int m = j / 3, c = j % 3;
    count = j < kMapTurns ? 3 : 1;
    for (int a = 0; a < 3; ++a) values[a] = j < kMapTurns ? at.A[9 * m + 3 * a + c] : T(1);
    return j < kMapTurns ? 3 * m : j;
  }

  // A^T P A and A^T P x.
  __device__ void begin_with_prior(const MapDeviceBody<T>& body) {
    const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
    for (int i = threadIdx.x / 32; i < kMapUnknowns; i += warps) {
      int rows, columns;
      T left[3], right[3];
      const int first = column(i, rows, left);
      for (int j = i + lane; j < kMapUnknowns; j += 32) {
        const int other = column(j, columns, right);
        T sum = T(0);
        for (int a = 0; a < rows; ++a)
          for (int e = 0; e < columns; ++e)
            sum += left[a] * in.precision[(first + a) * kMapUnknowns + other + e] * right[e];
        at.H[map_entry(i, j)] = sum;
      }
      if (lane == 0) {
        T sum = T(0);
        for (int a = 0; a < rows; ++a) sum += left[a] * body.pull[first + a];
        at.gradient[i] = sum;
      }
    }
  }

  // A batch of rows, made in three steps and squared into H.
  __device__ void add_rows(const MapDeviceBody<T>& body, const int32_t* row_of, int count) {
    __syncthreads();
    map_each(count, [&](int r) { begin_row(body, row_of[r], r); });
    map_each(count * kJoints,
             [&](int n) { reach(body, row_of[n / kJoints] / 5, n % kJoints, at.arm + 3 * n); });
    __syncthreads();
    map_each(count * kMapRow, [&](int n) {
      at.spread[n] =
          pull_row(body, row_of[n / kMapRow] / 5, at.normal + 3 * (n / kMapRow), n % kMapRow);
    });
    __syncthreads();
    map_each(count * kMapColumns, [&](int n) {
      const int r = n / kMapColumns;
      at.rows[n] = slope(body, row_of[r] / 5, r, n % kMapColumns);
    });
    __syncthreads();
    map_each(kMapUnknowns, [&](int j) {
      T sum = at.gradient[j];
      for (int r = 0; r < count; ++r) sum += at.residual[r] * at.rows[r * kMapColumns + j];
      at.gradient[j] = sum;
    });
    square_rows(count);
  }

  // Whitened normal, slopes by the camera and residual of row `which` (0, 1 image; 2..4 point).
  __device__ void begin_row(const MapDeviceBody<T>& body, int row, int r) {
    const int s = row / 5, which = row % 5;
    const T* target = at.target + 7 * s;
    const T* X = body.points + 3 * s;
    if (which < 2) {
      const math::MapImage<T> image = math::map_project(body.cam, frame, pinhole, X);
      const T root = math::square_root(target[0]);
      for (int k = 0; k < 3; ++k) {
        at.normal[3 * r + k] = root * image.by_point[which][k];
        at.by_camera[3 * r + k] = root * image.by_camera[which][k];
      }
      at.residual[r] = root * (image.u[which] - target[1 + which]);
    } else {
      const T root = math::square_root(target[3]);
      for (int k = 0; k < 3; ++k) {
        at.normal[3 * r + k] = k == which - 2 ? root : T(0);
        at.by_camera[3 * r + k] = T(0);
      }
      at.residual[r] = root * (X[which - 2] - target[2 + which]);
    }
  }

  __device__ bool is_below(int j, int m) const {
    while (j > m) j = in.parents[j];
    return j == m;
  }

  // The source's part at and below joint m, seen from m.
  __device__ void reach(const MapDeviceBody<T>& body, int s, int m, T* arm) const {
    T sum[3] = {T(0), T(0), T(0)};
    for (int64_t t = 0; t < in.terms; ++t) {
      if (in.term_index[3 * t + 2] != s || !is_below(in.term_index[3 * t + 1], m)) continue;
      for (int i = 0; i < 3; ++i)
        sum[i] += body.moved[3 * t + i] - in.term_weight[2 * t + 1] * body.g[3 * m + i];
    }
    for (int64_t n = 0; n < in.joint_terms; ++n) {
      const int j = in.joint_index[2 * n];
      if (in.joint_index[2 * n + 1] != s || !is_below(j, m)) continue;
      for (int i = 0; i < 3; ++i)
        sum[i] += in.joint_weight[n] * (body.g[3 * j + i] - body.g[3 * m + i]);
    }
    for (int i = 0; i < 3; ++i) arm[i] = sum[i];
  }

  // One number of sum over the source's terms of alpha n^T G_j D_r.
  __device__ T pull_row(const MapDeviceBody<T>& body, int s, const T* n, int k) const {
    T sum = T(0);
    for (int64_t t = 0; t < in.terms; ++t) {
      const int32_t* index = in.term_index + 3 * t;
      if (index[2] != s) continue;
      T pulled[3];
      math::rotate_transposed(body.G + 9 * index[1], n, pulled);
      for (int i = 0; i < 3; ++i)
        sum += in.term_weight[2 * t] * pulled[i] * in.row_data[(3 * index[0] + i) * kMapRow + k];
    }
    return sum;
  }

  // Entry of the Jacobian: row r by unknown j.
  __device__ T slope(const MapDeviceBody<T>& body, int s, int r, int j) const {
    const T* n = at.normal + 3 * r;
    const T* D = at.spread + r * kMapRow;
    if (j < kMapTurns) {
      const int m = j / 3, c = j % 3, next = (c + 1) % 3, last = (c + 2) % 3;
      T moment[3], sum = T(0);
      math::cross3(at.arm + 3 * (r * kJoints + m), n, moment);
      for (int i = 0; i < 3; ++i) {
        sum += body.G[9 * m + 3 * i + c] * moment[i];
        sum += body.R[9 * m + 3 * i + last] * D[(3 * i + next) * kJoints + m];
        sum -= body.R[9 * m + 3 * i + next] * D[(3 * i + last) * kJoints + m];
      }
      return sum;
    }
    if (j >= kMapUnknowns) return T(0);
    if (j >= kMapScale) return at.by_camera[3 * r + j - kMapScale];
    const int k = j - kMapTurns;
    T sum = D[kMapShape + k];
    for (int64_t t = 0; t < in.terms; ++t) {
      if (in.term_index[3 * t + 2] != s) continue;
      const T* shift = at.shift + 3 * (kJoints * k + in.term_index[3 * t + 1]);
      sum += in.term_weight[2 * t + 1] * math::dot3(n, shift);
    }
    for (int64_t m = 0; m < in.joint_terms; ++m) {
      if (in.joint_index[2 * m + 1] != s) continue;
      sum +=
          in.joint_weight[m] * math::dot3(n, at.place + 3 * (kJoints * k + in.joint_index[2 * m]));
    }
    return sum;
  }

  // H += J^T J in tiles of 4 x 4; a thread owns its tiles.
  __device__ void square_rows(int count) {
    constexpr int kTiles = kMapColumns / 4;
    map_each(kTiles * (kTiles + 1) / 2, [&](int tile) {
      int i = 0, before = 0;
      while (before + kTiles - i <= tile) before += kTiles - i++;
      const int j = i + tile - before;
      T sum[4][4] = {};
      for (int r = 0; r < count; ++r) {
        const T* row = at.rows + r * kMapColumns;
        for (int p = 0; p < 4; ++p)
          for (int v = 0; v < 4; ++v) sum[p][v] += row[4 * i + p] * row[4 * j + v];
      }
      for (int p = 0; p < 4; ++p)
        for (int v = 0; v < 4; ++v) {
          const int row = 4 * i + p, other = 4 * j + v;
          if (row <= other && other < kMapUnknowns) at.H[map_entry(row, other)] += sum[p][v];
        }
    });
  }

  // What may not move: a row and a column of the identity, no gradient.
  __device__ void hold_fixed() {
    const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
    for (int i = threadIdx.x / 32; i < kMapUnknowns; i += warps) {
      for (int j = i + lane; j < kMapUnknowns; j += 32)
        if (!in.free[i] || !in.free[j]) at.H[map_entry(i, j)] = T(i == j);
      if (lane == 0 && !in.free[i]) at.gradient[i] = T(0);
    }
  }

  // U^T U = H + damping diag(H); false, for the whole block, where that is not positive definite.
  __device__ bool factorise(T damping) {
    const int warps = blockDim.x / 32, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int i = warp; i < kMapUnknowns; i += warps)
      for (int j = i + lane; j < kMapUnknowns; j += 32) {
        const T value = at.H[map_entry(i, j)];
        at.U[map_entry(i, j)] = i == j ? value + damping * value : value;
      }
    __syncthreads();
    for (int k = 0; k < kMapUnknowns; ++k) {
      T* row = at.U + map_entry(k, k) - k;
      const T pivot = row[k];
      if (!(pivot > T(0))) return false;
      const T inverse = T(1) / math::square_root(pivot);
      for (int j = k + 1 + static_cast<int>(threadIdx.x); j < kMapUnknowns; j += blockDim.x)
        row[j] *= inverse;
      if (threadIdx.x == 0) at.inverse[k] = inverse;
      __syncthreads();
      for (int i = k + 1 + warp; i < kMapUnknowns; i += warps)
        for (int j = i + lane; j < kMapUnknowns; j += 32) at.U[map_entry(i, j)] -= row[i] * row[j];
      __syncthreads();
    }
    return true;
  }

  // step = -(U^T U)^-1 gradient, by the first warp: lane l has unknowns l, l + 32, l + 64.
  __device__ void solve() {
    if (threadIdx.x < 32) {
      const int lane = threadIdx.x;
      T value[3];
      for (int e = 0; e < 3; ++e)
        value[e] = lane + 32 * e < kMapUnknowns ? T(0) - at.gradient[lane + 32 * e] : T(0);
      for (int k = 0; k < kMapUnknowns; ++k) {
        const T own = k < 32 ? value[0] : k < 64 ? value[1] : value[2];
        const T found = __shfl_sync(0xFFFFFFFFu, own, k % 32) * at.inverse[k];
        for (int e = 0; e < 3; ++e) {
          const int j = lane + 32 * e;
          if (j == k) value[e] = found;
          if (j > k && j < kMapUnknowns) value[e] -= found * at.U[map_entry(k, j)];
        }
      }
      for (int k = kMapUnknowns - 1; k >= 0; --k) {
        const T own = k < 32 ? value[0] : k < 64 ? value[1] : value[2];
        const T found = __shfl_sync(0xFFFFFFFFu, own, k % 32) * at.inverse[k];
        for (int e = 0; e < 3; ++e) {
          const int j = lane + 32 * e;
          if (j == k) value[e] = found;
          if (j < k) value[e] -= found * at.U[map_entry(j, k)];
        }
      }
      for (int e = 0; e < 3; ++e)
        if (lane + 32 * e < kMapUnknowns) at.step[lane + 32 * e] = value[e];
    }
    __syncthreads();
  }

  __device__ void take_step(const MapDeviceBody<T>& from, MapDeviceBody<T>& to) {
    map_each(kJoints, [&](int j) {
      T q[4];
      math::vector_to_quaternion(at.step + 3 * j, q);
      math::multiply_quaternions(from.turn + 4 * j, q, to.turn + 4 * j);
    });
    map_each(kBetas, [&](int k) { to.betas[k] = from.betas[k] + at.step[kMapTurns + k]; });
    map_each(3, [&](int i) {
      const T step = at.step[kMapScale + i];
      const T held = step < T(-1) ? T(-1) : step > T(1) ? T(1) : step;
      to.cam[i] = i == 0 ? from.cam[0] * math::exponential(held) : from.cam[i] + step * frame;
    });
    __syncthreads();
  }

  // What the model says the energy falls by; see csrc/cpu/simd/map.cpp.
  __device__ double promised(double damping) {
    map_each(kMapUnknowns, [&](int i) {
      const double d = at.step[i];
      at.prior_part[i] = d * (damping * at.H[map_entry(i, i)] * d - at.gradient[i]);
    });
    __syncthreads();
    double sum = 0;
    for (int i = 0; i < kMapUnknowns; ++i) sum += at.prior_part[i];
    __syncthreads();
    return sum;
  }

  __device__ void write_hessian(T* out, bool is_finite) const {
    map_each(kMapUnknowns * kMapUnknowns, [&](int n) {
      const int i = n / kMapUnknowns, j = n % kMapUnknowns;
      out[n] = is_finite ? at.H[i < j ? map_entry(i, j) : map_entry(j, i)] : T(NAN);
    });
  }
};

}  // namespace eft_fast

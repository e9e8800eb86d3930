// One person's part of the points kernels: what the person's warp does between the products with
// the basis.
#pragma once

#include "../math/blend.h"
#include "../math/projection.h"
#include "points.h"

namespace eft_fast {

template <typename T>
struct LossInputs {
  int camera_size;  // 3 weak, 21 full
  const T *camera, *keypoints;
  int64_t limbs;
  const int32_t* limb_index;
  const T* limb_target;
  T keypoint_weight, beta_weight, camera_weight, limb_weight, unit, sigma;
};

template <typename T>
struct PointsOutputs {
  const T* g_points;               // backward
  T* points;                       // forward
  T *loss, *parts, *g_camera;      // loss
  T *g_betas, *g_pose, *g_transl;  // backward and loss
};

// One evaluation of one group of people. `p` is this warp's person, `b` its place in the batch.
template <typename T>
struct Evaluation {
  const PointsInputs<T>& in;
  const PointsOutputs<T>& out;
  const PointsArena<T>& arena;
  const PointsIndex& index;
  int64_t b;
  int p, lane;
  JointLane<T> q;
  T shift[3];

  __device__ const T* transform(int joint) const {
    return arena.transforms + (p * kJoints + joint) * kTransform;
  }

  __device__ void pose() {
    chain_forward(in.parents,
                  in.skeleton,
                  in.betas + b * kBetas,
                  in.pose + b * kJoints * in.form,
                  static_cast<int>(in.form),
                  q);
#pragma unroll
    for (int i = 0; i < 3; ++i) shift[i] = in.transl ? in.transl[b * 3 + i] : T(0);
    T* c = arena.coefficients + p;
    if (lane == 0) c[0] = T(1);
    if (lane < kBetas) c[(1 + lane) * kGroup] = in.betas[b * kBetas + lane];
    if (!q.is_joint) return;
    if (lane > 0) {
#pragma unroll
      for (int i = 0; i < 9; ++i) {
        c[(1 + kBetas + 9 * (lane - 1) + i) * kGroup] = q.R[i] - T(i % 4 == 0);
      }
    }
    T a[3];
    math::skin_translation(q.G, q.g, q.J, a);
    T* A = arena.transforms + (p * kJoints + lane) * kTransform;
#pragma unroll
    for (int i = 0; i < 3; ++i) {
#pragma unroll
      for (int k = 0; k < 3; ++k) A[4 * i + k] = q.G[3 * i + k];
      A[4 * i + 3] = a[i];
      arena.joints[(p * kJoints + lane) * 3 + i] = q.g[i];
    }
  }

  // Sources of this warp's person: kinematic joints, then terms in joint order.
  __device__ void make_sources() {
    for (int64_t s = lane; s < in.sources; s += 32) {
      T sum[3] = {};
      const Grouping& joints = index.joints_of_source;
      for (int at = joints.start[s]; at < joints.start[s + 1]; ++at) {
        const int m = joints.order[at];
        const T* g = arena.joints + (p * kJoints + in.joint_index[2 * m]) * 3;
#pragma unroll
        for (int i = 0; i < 3; ++i) sum[i] += in.joint_weight[m] * g[i];
      }
      const Grouping& terms = index.terms_of_source;
      for (int at = terms.start[s]; at < terms.start[s + 1]; ++at) {
        const int t = terms.order[at];
        const T alpha = in.term_weight[2 * t], omega = in.term_weight[2 * t + 1];
        const T* A = transform(in.term_index[3 * t + 1]);
        const T* y = arena.rows + p * 3 * in.rows + in.term_index[3 * t];
#pragma unroll
        for (int i = 0; i < 3; ++i) {
          const T turned =
              A[4 * i] * y[0] + A[4 * i + 1] * y[in.rows] + A[4 * i + 2] * y[2 * in.rows];
          sum[i] += alpha * turned + omega * A[4 * i + 3];
        }
      }
#pragma unroll
      for (int i = 0; i < 3; ++i) arena.sources[(p * in.sources + s) * 3 + i] = sum[i];
    }
    __syncwarp();
  }

  __device__ void output(int64_t k, T (&X)[3]) const {
    const int s = in.output_index[k];
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      X[i] = arena.sources[(p * in.sources + s) * 3 + i] + in.transl_weight[s] * shift[i];
    }
  }

  __device__ void store_points() const {
    for (int64_t k = lane; k < in.outputs; k += 32) {
      T X[3];
      output(k, X);
#pragma unroll
      for (int i = 0; i < 3; ++i) out.points[(b * in.outputs + k) * 3 + i] = X[i];
    }
  }

  __device__ void load_gradients() {
    for (int64_t i = lane; i < 3 * in.outputs; i += 32) {
      arena.outputs[p * 3 * in.outputs + i] = out.g_points[b * 3 * in.outputs + i];
    }
    __syncwarp();
  }

  __device__ void project(const LossInputs<T>& loss, const T (&X)[3], T (&u)[2]) const {
    const T* camera = loss.camera + b * loss.camera_size;
    if (loss.camera_size == math::kWeakCamera) {
      math::project_weak(camera, X, u);
    } else {
      math::project_full(camera, X, u);
    }
  }

  // Direction d of limb l in the image, and its penalty and slope. A kernel cannot raise, so a limb
  // of points that do not exist makes the loss NaN.
  __device__ T limb_term(const LossInputs<T>& loss, int64_t l, T (&gd)[2]) const {
    const int64_t from = loss.limb_index[2 * l], to = loss.limb_index[2 * l + 1];
    if (min(from, to) < 0 || max(from, to) >= in.outputs) return gd[0] = gd[1] = T(NAN);
    const T* start = arena.image + (p * in.outputs + from) * 2;
    const T* end = arena.image + (p * in.outputs + to) * 2;
    const T d[2] = {end[0] - start[0], end[1] - start[1]};
    const T* target = loss.limb_target + (b * loss.limbs + l) * 3;
    return math::direction_term(d, target, target[2], gd);
  }

  // Confidence times penalty of output k; gu starts the gradient of its projection. Confidence 0
  // hides whatever x and y hold.
  __device__ T keypoint_term(const LossInputs<T>& loss, int64_t k, T mean, T (&gu)[2]) const {
    const T* keypoint = loss.keypoints + (b * in.outputs + k) * 3;
    const T* u = arena.image + (p * in.outputs + k) * 2;
    T sum = T(0);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const T e = keypoint[2] == T(0) ? T(0) : loss.unit * (u[i] - keypoint[i]);
      T slope;
      const T value = loss.sigma > T(0) ? math::geman_mcclure(e, loss.sigma, slope)
                                        : math::squared_error(e, slope);
      sum += keypoint[2] * value;
      gu[i] = loss.keypoint_weight * mean * loss.unit * keypoint[2] * slope;
    }
    return sum;
  }

  // The four parts, their weighted sum, and the gradients of the outputs and of the camera. A lane
  // has every 32nd output; the lanes' sums meet in a fixed tree.
  __device__ void evaluate_loss(const LossInputs<T>& loss) {
    for (int64_t k = lane; k < in.outputs; k += 32) {
      T X[3], u[2];
      output(k, X);
      project(loss, X, u);
#pragma unroll
      for (int i = 0; i < 2; ++i) arena.image[(p * in.outputs + k) * 2 + i] = u[i];
    }
    __syncwarp();
    const T mean = T(1) / static_cast<T>(2 * max(in.outputs, int64_t{1}));
    const bool is_weak = loss.camera_size == math::kWeakCamera;
    const T* camera = loss.camera + b * loss.camera_size;
    T parts[4] = {}, g_camera[math::kFullCamera] = {};
    for (int64_t k = lane; k < in.outputs; k += 32) {
      T X[3], gu[2], gX[3];
      output(k, X);
      parts[0] += mean * keypoint_term(loss, k, mean, gu);
      for (int64_t l = 0; l < loss.limbs; ++l) {
        const bool starts = loss.limb_index[2 * l] == k, ends = loss.limb_index[2 * l + 1] == k;
        if (!starts && !ends) continue;
        T gd[2];
        limb_term(loss, l, gd);
        const T sign = static_cast<T>(ends) - static_cast<T>(starts);
#pragma unroll
        for (int i = 0; i < 2; ++i) gu[i] += sign * loss.limb_weight * gd[i];
      }
      if (is_weak) {
        math::project_weak_backward(camera, X, gu, gX, g_camera);
      } else {
        math::project_full_backward(camera, X, gu, gX, g_camera);
      }
#pragma unroll
      for (int i = 0; i < 3; ++i) arena.outputs[(p * in.outputs + k) * 3 + i] = gX[i];
    }
    for (int64_t l = lane; l < loss.limbs; l += 32) {
      T gd[2];
      parts[3] += limb_term(loss, l, gd);
    }
    if (lane < kBetas) parts[1] = in.betas[b * kBetas + lane] * in.betas[b * kBetas + lane];
    parts[0] = sum_lanes(parts[0]);
    parts[1] = sum_lanes(parts[1]) / T(kBetas);
    parts[3] = sum_lanes(parts[3]);
    T guard_slope = T(0);
    if (is_weak) parts[2] = math::camera_term(camera[0], guard_slope);
#pragma unroll
    for (int i = 0; i < math::kFullCamera; ++i) {
      if (i >= loss.camera_size) break;
      T sum = sum_lanes(g_camera[i]);
      if (i == 0) sum += loss.camera_weight * guard_slope;
      if (lane == 0) out.g_camera[b * loss.camera_size + i] = sum;
    }
    if (lane == 0) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out.parts[b * 4 + i] = parts[i];
      out.loss[b] = loss.keypoint_weight * parts[0] + loss.beta_weight * parts[1] +
                    loss.camera_weight * parts[2] + loss.limb_weight * parts[3];
    }
    __syncwarp();
  }

  // Gradients of the sources, in place of the sources, and of the rows.
  __device__ void gather_rows() {
    T* g_source = arena.sources + p * 3 * in.sources;
    for (int64_t s = lane; s < in.sources; s += 32) {
      T sum[3] = {};
      const Grouping& outputs = index.outputs_of_source;
      for (int at = outputs.start[s]; at < outputs.start[s + 1]; ++at) {
        const T* g = arena.outputs + (p * in.outputs + outputs.order[at]) * 3;
#pragma unroll
        for (int i = 0; i < 3; ++i) sum[i] += g[i];
      }
#pragma unroll
      for (int i = 0; i < 3; ++i) g_source[s * 3 + i] = sum[i];
    }
    __syncwarp();
    for (int64_t r = lane; r < in.rows; r += 32) {
      T sum[3] = {};
      const Grouping& terms = index.terms_of_row;
      for (int at = terms.start[r]; at < terms.start[r + 1]; ++at) {
        const int t = terms.order[at];
        T gy[3];
        math::apply_transform_backward_point(
            transform(in.term_index[3 * t + 1]), g_source + 3 * in.term_index[3 * t + 2], gy);
#pragma unroll
        for (int i = 0; i < 3; ++i) sum[i] += in.term_weight[2 * t] * gy[i];
      }
#pragma unroll
      for (int i = 0; i < 3; ++i) arena.g_rows[(i * in.rows + r) * kGroup + p] = sum[i];
    }
  }

  // From the gradients of sources and coefficients to those of the inputs.
  __device__ void finish(T beta_slope) {
    const T* g_source = arena.sources + p * 3 * in.sources;
    const T* y = arena.rows + p * 3 * in.rows;
    T gA[kTransform] = {}, g_joint[3] = {}, from_sources[3] = {};
    for (int t = index.joint_start[min(lane, kJoints)];
         t < index.joint_start[min(lane + 1, kJoints)];
         ++t) {
      const int r = in.term_index[3 * t];
      const T* g = g_source + 3 * in.term_index[3 * t + 2];
      const T alpha = in.term_weight[2 * t], omega = in.term_weight[2 * t + 1];
#pragma unroll
      for (int i = 0; i < 3; ++i) {
#pragma unroll
        for (int k = 0; k < 3; ++k) gA[4 * i + k] += alpha * g[i] * y[k * in.rows + r];
        gA[4 * i + 3] += omega * g[i];
      }
    }
    const Grouping& uses = index.sources_of_joint;
    const int first_use = uses.start[min(lane, kJoints)];
    for (int at = first_use; at < uses.start[min(lane + 1, kJoints)]; ++at) {
      const int m = uses.order[at];
      const T* g = g_source + 3 * in.joint_index[2 * m + 1];
#pragma unroll
      for (int i = 0; i < 3; ++i) g_joint[i] += in.joint_weight[m] * g[i];
    }
    for (int64_t s = lane; s < in.sources; s += 32) {
#pragma unroll
      for (int i = 0; i < 3; ++i) from_sources[i] += in.transl_weight[s] * g_source[3 * s + i];
    }
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      const T sum = sum_lanes(from_sources[i]);
      if (lane == i) out.g_transl[b * 3 + i] = sum;
    }
    const T* gc = arena.coefficients + p * kCoefficients;
    const T* betas = in.betas + b * kBetas;
    finish_backward(
        q,
        arena.scratch + p * kChainScratch,
        in.skeleton,
        in.pose + b * kJoints * in.form,
        static_cast<int>(in.form),
        gA,
        g_joint,
        [=](int k) { return k <= kBetas ? gc[k] + beta_slope * betas[k - 1] : gc[k]; },
        out.g_betas + b * kBetas,
        out.g_pose + b * kJoints * in.form);
  }
};

}  // namespace eft_fast

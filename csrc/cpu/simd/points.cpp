// Points forward, points backward, and the keypoint loss with its gradients: one group of people
// per item.
#include "points.h"
//
#include "../../math/projection.h"

namespace eft_fast {
namespace EFT_ISA {
namespace {

// Groups of people that are worth a thread: 16 to 35 us each.
constexpr int64_t kGrain = 4;

template <typename S>
int64_t group_count(int64_t people) {
  return (people + kLanes<S> - 1) / kLanes<S>;
}

template <typename S>
void forward(const cpu::PointsForward<S>& args) {
  auto item = [&](int64_t group) {
    PointsWork<S>& work = points_work(args.data);
    make_sources(args.body, args.data, group * kLanes<S>, work);
    for (int64_t k = 0; k < args.data.outputs; ++k) {
      const int32_t s = args.data.output_index[k];
      for (int i = 0; i < 3; ++i)
        work.outputs[3 * k + i] =
            work.source[3 * s + i] + Vec<S>(args.data.transl_weight[s]) * work.q.transl[i];
    }
    store_lanes(work.outputs, 3 * args.data.outputs, work.q.b0, work.q.n, args.points);
  };
  for_each_item(args.pool, group_count<S>(args.body.people), kGrain, item);
}

template <typename S>
void backward(const cpu::PointsBackward<S>& args) {
  auto item = [&](int64_t group) {
    PointsWork<S>& work = points_work(args.data);
    make_sources(args.body, args.data, group * kLanes<S>, work);
    load_lanes(args.g_points, 3 * args.data.outputs, work.q.b0, work.q.n, work.outputs);
    for (int64_t i = 0; i < 3 * args.data.sources; ++i) work.g_source[i] = Vec<S>(0);
    for (int64_t k = 0; k < args.data.outputs; ++k)
      for (int i = 0; i < 3; ++i)
        work.g_source[3 * args.data.output_index[k] + i] += work.outputs[3 * k + i];
    sources_backward(args.body, args.data, work, args.out, S(0));
  };
  for_each_item(args.pool, group_count<S>(args.body.people), kGrain, item);
}

// The loss of one group: terms, their sum, and the gradients of the sources and of the camera.
template <typename S>
struct Loss {
  using V = Vec<S>;
  const cpu::KeypointLoss<S>& args;
  PointsWork<S>& work;
  V camera[math::kFullCamera], g_camera[math::kFullCamera];

  bool is_weak() const { return args.in.camera_size == math::kWeakCamera; }

  // Output k in the body's frame, translation included.
  EFT_INLINE void output(int64_t k, V* X) const {
    const int32_t s = args.data.output_index[k];
    for (int i = 0; i < 3; ++i)
      X[i] = work.source[3 * s + i] + V(args.data.transl_weight[s]) * work.q.transl[i];
  }

  void project() {
    load_lanes(args.in.camera, args.in.camera_size, work.q.b0, work.q.n, camera);
    for (int i = 0; i < args.in.camera_size; ++i) g_camera[i] = V(0);
    for (int64_t k = 0; k < args.data.outputs; ++k) {
      V X[3];
      output(k, X);
      if (is_weak()) {
        math::project_weak(camera, X, work.image + 2 * k);
      } else {
        math::project_full(camera, X, work.image + 2 * k);
      }
    }
  }

  // Mean over the 2K coordinates of confidence times penalty; confidence 0 hides whatever x and y
  // hold.
  V keypoints() {
    const cpu::LossInputs<S>& in = args.in;
    const S mean = S(1) / (2 * (args.data.outputs > 0 ? args.data.outputs : 1));
    load_lanes(in.keypoints, 3 * args.data.outputs, work.q.b0, work.q.n, work.outputs);
    V sum(0);
    for (int64_t k = 0; k < args.data.outputs; ++k) {
      const V confidence = work.outputs[3 * k + 2];
      const auto is_hidden = confidence == V(0);
      for (int i = 0; i < 2; ++i) {
        const V e =
            select(is_hidden, V(0), V(in.unit) * (work.image[2 * k + i] - work.outputs[3 * k + i]));
        V slope;
        const V value = in.sigma > 0 ? math::geman_mcclure(e, V(in.sigma), slope)
                                     : math::squared_error(e, slope);
        sum += confidence * value;
        work.g_image[2 * k + i] = V(in.keypoint_weight * mean * in.unit) * confidence * slope;
      }
    }
    return V(mean) * sum;
  }

  V limbs() {
    const cpu::LossInputs<S>& in = args.in;
    V sum(0);
    for (int64_t l = 0; l < in.limbs; ++l) {
      const int64_t start = in.limb_index[2 * l], end = in.limb_index[2 * l + 1];
      V target[3], d[2], gd[2];
      for (int p = 0; p < kLanes<S>; ++p)
        for (int i = 0; i < 3; ++i)
          reinterpret_cast<S*>(&target[i])[p] =
              p < work.q.n ? in.limb_target[((work.q.b0 + p) * in.limbs + l) * 3 + i] : S(0);
      for (int i = 0; i < 2; ++i) d[i] = work.image[2 * end + i] - work.image[2 * start + i];
      sum += math::direction_term(d, target, target[2], gd);
      for (int i = 0; i < 2; ++i) {
        work.g_image[2 * end + i] += V(in.limb_weight) * gd[i];
        work.g_image[2 * start + i] -= V(in.limb_weight) * gd[i];
      }
    }
    return sum;
  }

  V shape() const {
    V sum(0);
    for (int k = 0; k < kBetas; ++k) sum += work.q.betas[k] * work.q.betas[k];
    return V(S(1) / kBetas) * sum;
  }

  V scale_guard() {
    if (!is_weak()) return V(0);
    V slope;
    const V value = math::camera_term(camera[0], slope);
    g_camera[0] += V(args.in.camera_weight) * slope;
    return value;
  }

  void unproject() {
    for (int64_t i = 0; i < 3 * args.data.sources; ++i) work.g_source[i] = V(0);
    for (int64_t k = 0; k < args.data.outputs; ++k) {
      V X[3], gX[3];
      output(k, X);
      if (is_weak()) {
        math::project_weak_backward(camera, X, work.g_image + 2 * k, gX, g_camera);
      } else {
        math::project_full_backward(camera, X, work.g_image + 2 * k, gX, g_camera);
      }
      for (int i = 0; i < 3; ++i) work.g_source[3 * args.data.output_index[k] + i] += gX[i];
    }
  }
};

template <typename S>
void loss(const cpu::KeypointLoss<S>& args) {
  auto item = [&](int64_t group) {
    using V = Vec<S>;
    const cpu::LossInputs<S>& in = args.in;
    PointsWork<S>& work = points_work(args.data);
    make_sources(args.body, args.data, group * kLanes<S>, work);
    Loss<S> terms{args, work, {}, {}};
    terms.project();
    V parts[4];
    parts[0] = terms.keypoints();
    parts[1] = terms.shape();
    parts[2] = terms.scale_guard();
    parts[3] = terms.limbs();
    terms.unproject();
    V total = V(in.keypoint_weight) * parts[0];
    total += V(in.beta_weight) * parts[1];
    total += V(in.camera_weight) * parts[2];
    total += V(in.limb_weight) * parts[3];
    store_lanes(&total, 1, work.q.b0, work.q.n, args.loss);
    store_lanes(parts, 4, work.q.b0, work.q.n, args.parts);
    store_lanes(terms.g_camera, in.camera_size, work.q.b0, work.q.n, args.g_camera);
    sources_backward(args.body, args.data, work, args.out, in.beta_weight * 2 / kBetas);
  };
  for_each_item(args.pool, group_count<S>(args.body.people), kGrain, item);
}

}  // namespace

void points_forward(const cpu::PointsForward<float>& args) { forward(args); }
void points_forward(const cpu::PointsForward<double>& args) { forward(args); }
void points_backward(const cpu::PointsBackward<float>& args) { backward(args); }
void points_backward(const cpu::PointsBackward<double>& args) { backward(args); }
void keypoint_loss(const cpu::KeypointLoss<float>& args) { loss(args); }
void keypoint_loss(const cpu::KeypointLoss<double>& args) { loss(args); }

}  // namespace EFT_ISA
}  // namespace eft_fast

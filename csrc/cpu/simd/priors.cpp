// Priors of a group of people: the likeliest Gaussian, bending, limits, shape, distance to a start.
#include "group.h"
//
#include "../../math/priors.h"
#include "../../math/projection.h"

namespace eft_fast {
namespace EFT_ISA {
namespace {

constexpr int kPose = cpu::kBodyPose;
// Groups of people that are worth a thread: about 10 us each.
constexpr int64_t kGrain = 8;
// Rows of a factor that are summed side by side, so that no sum waits for its last addition.
constexpr int kRows = 8;
// Main bending axis of left elbow, right elbow, left knee, right knee, and the overstretched sign.
constexpr int kBending[4] = {52, 55, 9, 12};
constexpr int kBendingSign[4] = {1, -1, -1, -1};

template <typename S>
struct Priors {
  using V = Vec<S>;
  const cpu::BodyPriors<S>& args;
  int64_t b0;
  int n;
  V pose[kPose], betas[kBetas], g_pose[kPose], g_betas[kBetas];
  V white[kPose], best_white[kPose], best, winner;

  // whitened[first + i] = sum over k of L[k][first + i] (pose - mean)[k], N numbers at a time. L is
  // a lower triangle, so that k starts at the first of them.
  template <int N>
  EFT_INLINE void whiten(int64_t gaussian, int first) {
    const int64_t step = args.gaussians * args.dims;
    const S* column = args.factors + gaussian * args.dims + first;
    const S* mean = args.means + gaussian * args.dims;
    V sum[N];
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) sum[i] = V(0);
    for (int64_t k = first; k < args.dims; ++k) {
      const V d = pose[k] - V(mean[k]);
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) sum[i] += V(column[k * step + i]) * d;
    }
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) white[first + i] = sum[i];
  }

  void find_winner() {
    best = winner = V(0);
    for (int e = 0; e < kPose; ++e) best_white[e] = V(0);
    for (int64_t j = 0; j < args.gaussians; ++j) {
      int e = 0;
      for (; e + kRows <= args.dims; e += kRows) whiten<kRows>(j, e);
      for (; e < args.dims; ++e) whiten<1>(j, e);
      V sum(0);
      for (e = 0; e < args.dims; ++e) sum += white[e] * white[e];
      const V energy = V(0.5) * sum + V(args.offset[j]);
      const auto wins = j == 0 ? V(0) == V(0) : energy < best;
      best = select(wins, energy, best);
      winner = select(wins, V(static_cast<int>(j)), winner);
      for (e = 0; e < args.dims; ++e) best_white[e] = select(wins, white[e], best_white[e]);
    }
  }

  // Gradient: the winner's factor times the whitened pose. Lanes of other winners add zeros.
  V mixture() {
    find_winner();
    const int64_t step = args.gaussians * args.dims;
    for (int64_t j = 0; j < args.gaussians; ++j) {
      const V number(static_cast<int>(j));
      bool is_needed = false;
      for (int lane = 0; lane < n; ++lane) is_needed |= winner.v[lane] == static_cast<S>(j);
      if (!is_needed) continue;
      for (int e = 0; e < args.dims; ++e)
        white[e] = select(winner == number, V(args.pose_weight) * best_white[e], V(0));
      for (int64_t k = 0; k < args.dims; ++k) {
        const S* row = args.factors + k * step + j * args.dims;
        V sum[2] = {V(0), V(0)};
        for (int64_t e = 0; e + 1 <= k; e += 2) {
          sum[0] += V(row[e]) * white[e];
          sum[1] += V(row[e + 1]) * white[e + 1];
        }
        if (k % 2 == 0) sum[0] += V(row[k]) * white[k];
        g_pose[k] += sum[0] + sum[1];
      }
    }
    return best;
  }

  V bending() {
    V total(0);
    for (int i = 0; i < 4; ++i) {
      V slope;
      total += math::bending_term(pose[kBending[i]], V(kBendingSign[i]), slope);
      g_pose[kBending[i]] += V(args.angle_weight) * slope;
    }
    return total;
  }

  V limits() {
    const V per_unit(S(1) / args.softness);
    V total(0);
    for (int k = 0; k < kPose; ++k) {
      V above, below;
      total += math::limit_term((pose[k] - V(args.upper[k])) * per_unit, above);
      total += math::limit_term((V(args.lower[k]) - pose[k]) * per_unit, below);
      g_pose[k] += V(args.limits_weight) * per_unit * (above - below);
    }
    return total;
  }

  // Squared distance of `count` numbers to targets, or to 0; adds its weighted slope.
  V squares(const V* value, const S* target, int count, S weight, V* g) {
    V targets[kPose];
    for (int k = 0; k < count; ++k) targets[k] = V(0);
    if (target) load_lanes(target, count, b0, n, targets);
    V total(0);
    for (int k = 0; k < count; ++k) {
      V slope;
      total += math::squared_error(value[k] - targets[k], slope);
      g[k] += V(weight) * slope;
    }
    return total;
  }

  void run() {
    load_lanes(args.pose, kPose, b0, n, pose);
    load_lanes(args.betas, kBetas, b0, n, betas);
    for (int k = 0; k < kPose; ++k) g_pose[k] = V(0);
    for (int k = 0; k < kBetas; ++k) g_betas[k] = V(0);
    V parts[5] = {V(0), V(0), V(0), V(0), V(0)};
    if (args.pose_weight != 0) parts[0] = mixture();
    if (args.angle_weight != 0) parts[1] = bending();
    if (args.limits_weight != 0) parts[2] = limits();
    if (args.shape_weight != 0)
      parts[3] = squares(betas, nullptr, kBetas, args.shape_weight, g_betas);
    if (args.anchor_weight != 0) {
      parts[4] = squares(pose, args.anchor_pose, kPose, args.anchor_weight, g_pose);
      parts[4] += squares(betas, args.anchor_betas, kBetas, args.anchor_weight, g_betas);
    }
    V total = V(args.pose_weight) * parts[0];
    total += V(args.angle_weight) * parts[1];
    total += V(args.limits_weight) * parts[2];
    total += V(args.shape_weight) * parts[3];
    total += V(args.anchor_weight) * parts[4];
    store_lanes(&total, 1, b0, n, args.loss);
    store_lanes(parts, 5, b0, n, args.parts);
    store_lanes(g_pose, kPose, b0, n, args.g_pose);
    store_lanes(g_betas, kBetas, b0, n, args.g_betas);
  }
};

template <typename S>
void priors(const cpu::BodyPriors<S>& args) {
  auto item = [&](int64_t group) {
    const int64_t b0 = group * kLanes<S>;
    Priors<S> terms{args, b0, group_size<S>(args.people, b0)};
    terms.run();
  };
  for_each_item(args.pool, (args.people + kLanes<S> - 1) / kLanes<S>, kGrain, item);
}

}  // namespace

void body_priors(const cpu::BodyPriors<float>& args) { priors(args); }
void body_priors(const cpu::BodyPriors<double>& args) { priors(args); }

}  // namespace EFT_ISA
}  // namespace eft_fast

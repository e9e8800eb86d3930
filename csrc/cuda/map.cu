// Maximum a posteriori by Levenberg-Marquardt: a block solves a person, all steps in one launch, so
// nothing waits for the host. Systems and both bodies stay in shared memory.
#include "map.h"

namespace eft_fast {
namespace {

template <typename T>
struct MapOutputs {
  int64_t steps;
  double damping, tolerance;
  T *rotmat, *betas, *cam, *energy, *data;
  int32_t* count;
  bool *converged, *finite;
  T *gradient, *hessian;
};

template <typename T>
__device__ inline void write_energies(const MapDeviceBody<T>& body, int64_t b, MapOutputs<T> out) {
  if (threadIdx.x != 0) return;
  out.energy[b] = static_cast<T>(*body.energy);
  out.data[b] = static_cast<T>(*body.data);
}

// Without a step the answer is the start as it came.
template <typename T>
__device__ inline void write_state(const MapInputs<T>& in,
                                   const MapDeviceBody<T>& body,
                                   bool has_moved,
                                   int64_t b,
                                   MapOutputs<T> out) {
  map_each(9 * kJoints, [&](int n) {
    const int64_t at = b * 9 * kJoints + n;
    out.rotmat[at] = has_moved ? body.R[n] : in.rotmat[at];
  });
  map_each(kBetas, [&](int k) { out.betas[b * kBetas + k] = body.betas[k]; });
  map_each(3, [&](int i) { out.cam[3 * b + i] = body.cam[i]; });
}

template <typename T>
__global__ void __launch_bounds__(kMapThreads)
    map_evaluate_kernel(MapInputs<T> in, MapOutputs<T> out) {
  EFT_DYNAMIC_SHARED(unsigned char, shared);
  MapArena<T> arena(in, shared);
  MapBlock<T> block{in, arena, blockIdx.x, T(0), nullptr};
  MapDeviceBody<T>& body = arena.bodies[0];
  block.load(body);
  block.measure(body);
  block.make_model(body);
  write_energies(body, block.b, out);
  map_each(kMapUnknowns,
           [&](int i) { out.gradient[block.b * kMapUnknowns + i] = arena.gradient[i]; });
  block.write_hessian(out.hessian + block.b * kMapUnknowns * kMapUnknowns, true);
}

template <typename T>
__global__ void __launch_bounds__(kMapThreads)
    map_solve_kernel(MapInputs<T> in, MapOutputs<T> out) {
  EFT_DYNAMIC_SHARED(unsigned char, shared);
  MapArena<T> arena(in, shared);
  MapBlock<T> block{in, arena, blockIdx.x, T(0), nullptr};
  // All threads keep the same numbers here, read from shared memory behind barriers.
  int now = 0, count = 0;
  double damping = out.damping;
  bool is_done = false, has_model = false, has_moved = false;
  block.load(arena.bodies[0]);
  block.measure(arena.bodies[0]);
  const double first = *arena.bodies[0].energy;
  const bool is_finite = first - first == 0;
  for (; is_finite && !is_done && count < out.steps; ++count) {
    MapDeviceBody<T>&body = arena.bodies[now], &trial = arena.bodies[1 - now];
    if (!has_model) block.make_model(body);
    double promise = -1, energy = 0;
    bool is_better = false;
    const double before = *body.energy;
    if (block.factorise(static_cast<T>(damping))) {
      block.solve();
      promise = block.promised(damping);
      block.take_step(body, trial);
      block.measure(trial);
      energy = *trial.energy;
      is_better = energy < before;
    }
    __syncthreads();
    is_done = promise >= 0 && (1 + damping) * promise <= out.tolerance * before;
    damping = math::map_next_damping(damping, is_better, (before - energy) / promise);
    has_model = !is_better;
    if (is_better) now = 1 - now;
    has_moved |= is_better;
  }
  const int64_t b = block.b;
  if (threadIdx.x == 0) {
    out.count[b] = count;
    out.converged[b] = is_done;
    out.finite[b] = is_finite;
  }
  write_energies(arena.bodies[now], b, out);
  write_state(in, arena.bodies[now], has_moved, b, out);
  if (!out.hessian) return;
  if (is_finite && !has_model) block.make_model(arena.bodies[now]);
  block.write_hessian(out.hessian + b * kMapUnknowns * kMapUnknowns, is_finite);
}

template <typename T, typename Kernel>
int launch_map(Kernel kernel, const MapInputs<T>& in, const MapOutputs<T>& out, void* stream) {
  if (in.people == 0) return 0;
  const auto bytes = static_cast<int>(map_arena_bytes(in.rows, in.terms, in.sources, sizeof(T)));
  // Taken off, so that the next launch is not told of it.
  if (allow_shared(kernel, bytes) != cudaSuccess) return cudaGetLastError();
  EFT_LAUNCH(kernel, grid_of(in.people), kMapThreads, bytes, stream, in, out);
  return cudaGetLastError();
}

}  // namespace
}  // namespace eft_fast

#define EFT_MAP_PACK(T)                                                                            \
  eft_fast::MapInputs<T> {                                                                         \
    people, rows, terms, joint_terms, sources, outputs, rotmat0, betas0, cam0, rotmat, betas, cam, \
        keypoints, precision, frame, pinhole, points3d, free, skeleton, parents, row_data,         \
        term_index, term_weight, joint_index, joint_weight, output_index                           \
  }

#define EFT_MAP_DEFINE(suffix, T)                                                                \
  EFT_MAP_SOLVE(eft_map_solve_##suffix, T) {                                                     \
    const eft_fast::MapOutputs<T> out{steps,                                                     \
                                      damping,                                                   \
                                      tolerance,                                                 \
                                      out_rotmat,                                                \
                                      out_betas,                                                 \
                                      out_cam,                                                   \
                                      energy,                                                    \
                                      data,                                                      \
                                      count,                                                     \
                                      converged,                                                 \
                                      finite,                                                    \
                                      nullptr,                                                   \
                                      hessian};                                                  \
    return eft_fast::launch_map(eft_fast::map_solve_kernel<T>, EFT_MAP_PACK(T), out, stream);    \
  }                                                                                              \
  EFT_MAP_EVALUATE(eft_map_evaluate_##suffix, T) {                                               \
    eft_fast::MapOutputs<T> out{};                                                               \
    out.energy = energy;                                                                         \
    out.data = data;                                                                             \
    out.gradient = gradient;                                                                     \
    out.hessian = hessian;                                                                       \
    return eft_fast::launch_map(eft_fast::map_evaluate_kernel<T>, EFT_MAP_PACK(T), out, stream); \
  }

EFT_MAP_DEFINE(f32, float)
EFT_MAP_DEFINE(f64, double)

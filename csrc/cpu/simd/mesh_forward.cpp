// Mesh forward: blend and skin one tile of 16 vertices for a few people at a time, all in
// registers.
//
// For every person the sum over coefficients runs in index order, whoever shares the tile: the
// result does not depend on the batch or on the threads.
#include "mesh.h"

namespace eft_fast {
namespace EFT_ISA {
namespace {

// Tiles that a thread takes at a time: their basis (42 kB each in float32) stays in the cache
// between groups.
constexpr int64_t kBlock = 8;

// posed = B c for kLanes vertices of N people.
template <typename S, int N>
EFT_INLINE void blend(const S* basis, const Vec<S>* c, int first, Vec<S> (&posed)[N][3]) {
  using V = Vec<S>;
  const V x0 = V::load(basis), y0 = V::load(basis + kTile), z0 = V::load(basis + 2 * kTile);
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n) {
    posed[n][0] = x0;
    posed[n][1] = y0;
    posed[n][2] = z0;
  }
  for (int k = 1; k < kCoefficients; ++k) {
    basis += kTileStep;
    const V x = V::load(basis), y = V::load(basis + kTile), z = V::load(basis + 2 * kTile);
    const S* row = reinterpret_cast<const S*>(c + k) + first;
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const V f(row[n]);
      posed[n][0] += f * x;
      posed[n][1] += f * y;
      posed[n][2] += f * z;
    }
  }
}

// v = sum_runs w (G x + a) + transl for kLanes vertices of person l.
template <typename S>
EFT_INLINE void skin(const cpu::MeshData<S>& mesh,
                     int64_t tile,
                     int offset,
                     const TileInputs<S>& in,
                     int l,
                     const Vec<S>* x,
                     Vec<S>* v) {
  Vec<S> T[12];
  for (int e = 0; e < 12; ++e) T[e] = Vec<S>(0);
  const int end = mesh.run_ptr[tile + 1];
  for (int r = mesh.run_ptr[tile]; r < end; ++r) {
    const Vec<S> w = Vec<S>::load(mesh.run_weight + static_cast<int64_t>(r) * kTile + offset);
    const Vec<S>* A = in.A[mesh.run_joint[r]];
#pragma GCC unroll 12
    for (int e = 0; e < 12; ++e) T[e] += w * person(A[e], l);
  }
  for (int i = 0; i < 3; ++i) {
    v[i] = T[4 * i] * x[0] + T[4 * i + 3];
    v[i] += T[4 * i + 1] * x[1];
    v[i] += T[4 * i + 2] * x[2];
    v[i] += person(in.transl[i], l);
  }
}

template <typename S>
struct Pass {
  const cpu::MeshForward<S>& args;
  const TileInputs<S>* inputs;

  template <int N>
  EFT_INLINE void people(const TileInputs<S>& in, int64_t b0, int first, int64_t tile) const {
    constexpr int W = kLanes<S>;
    const cpu::MeshData<S>& mesh = args.mesh;
    for (int offset = 0; offset < kTile; offset += W) {
      const int64_t vertex = tile * kTile + offset;
      Vec<S> posed[N][3];
      blend<S, N>(mesh.basis + tile * kTileSize + offset, in.c, first, posed);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        const int64_t b = b0 + first + n;
        if (args.posed)
          for (int i = 0; i < 3; ++i)
            posed[n][i].store(args.posed + (b * mesh.tiles + tile) * kTileStep + i * kTile +
                              offset);
        Vec<S> v[3];
        skin(mesh, tile, offset, in, first + n, posed[n], v);
        S* out = args.vertices + (b * mesh.vertices + vertex) * 3;
        if (vertex + W <= mesh.vertices) {
          store_points(out, v[0], v[1], v[2]);
        } else {
          alignas(64) S last[3 * W];
          store_points(last, v[0], v[1], v[2]);
          for (int64_t i = 0; i < 3 * (mesh.vertices - vertex); ++i) out[i] = last[i];
        }
      }
    }
  }

  // The remainder of a group takes a narrower tile of exactly its size.
  template <int N>
  void dispatch(int count, const TileInputs<S>& in, int64_t b0, int first, int64_t tile) const {
    if (count == N) {
      people<N>(in, b0, first, tile);
    } else if constexpr (N > 1) {
      dispatch<N - 1>(count, in, b0, first, tile);
    }
  }

  void operator()(int64_t block) const {
    constexpr int W = kLanes<S>;
    const int64_t begin = block * kBlock;
    const int64_t end = begin + kBlock < args.mesh.tiles ? begin + kBlock : args.mesh.tiles;
    for (int64_t b0 = 0; b0 < args.body.people; b0 += W) {
      const TileInputs<S>& in = inputs[b0 / W];
      const int n = group_size<S>(args.body.people, b0);
      for (int64_t tile = begin; tile < end; ++tile)
        for (int first = 0; first < n; first += kPeople<S>)
          dispatch<kPeople<S>>(
              n - first < kPeople<S> ? n - first : kPeople<S>, in, b0, first, tile);
    }
  }
};

template <typename S>
void run(const cpu::MeshForward<S>& args) {
  constexpr int W = kLanes<S>;
  const int64_t groups = (args.body.people + W - 1) / W;
  auto* inputs = static_cast<TileInputs<S>*>(cpu::scratch(0, groups * sizeof(TileInputs<S>)));
  auto kinematics = [&](int64_t group) {
    Group<S> q;
    pose_group(args.body, group * W, q);
    tile_inputs(q, inputs[group]);
    Vec<S> joints[kJoints * 3];
    for (int j = 0; j < kJoints; ++j)
      for (int i = 0; i < 3; ++i) joints[3 * j + i] = q.chain.g[j][i] + q.transl[i];
    store_lanes(joints, kJoints * 3, q.b0, q.n, args.joints);
  };
  for_each_item(args.pool, groups, kKinematicsGrain, kinematics);
  Pass<S> pass{args, inputs};
  // A block of one person takes about 8 us.
  const int64_t grain = args.body.people < 16 ? 16 / args.body.people : 1;
  for_each_item(args.pool, (args.mesh.tiles + kBlock - 1) / kBlock, grain, pass);
}

}  // namespace

void mesh_forward(const cpu::MeshForward<float>& args) { run(args); }
void mesh_forward(const cpu::MeshForward<double>& args) { run(args); }

}  // namespace EFT_ISA
}  // namespace eft_fast

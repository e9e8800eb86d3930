// Mesh forward: blend a tile of 16 vertices for a few people at a time in registers, then skin it
// from the nearest cache.
//
// For every person the sum over coefficients runs in index order, whoever shares the tile: the
// result does not depend on the batch or on the threads.
#include "mesh.h"

namespace eft_fast {
namespace EFT_ISA {
namespace {

// People that share a load of the basis: with 2 vectors of vertices (AVX-512: 3) as many sums as
// registers hold. Their coefficients lie side by side.
template <typename S>
constexpr int kSet = kVectorBytes == 64 ? 8 : 6;
constexpr int kSetPadded = 8;

// Sets that take turns on a tile while the part of its basis that they multiply (14 kB of 42) is in
// the first cache: 160 us a person where one set after the other took 195 (256 people, AVX2).
constexpr int kCrew = 4;

// Tiles that a thread takes at a time: their basis (42 kB each in float32) stays in the second
// cache between crews.
constexpr int64_t kBlock = 8;

// People at a time: bounds the memory of their inputs to 0.6 MB in float32. A multiple of the
// lanes and of the sets.
constexpr int64_t kSlab = 240;

template <typename S>
struct alignas(64) Coefficients {
  S c[kCoefficients][kSetPadded];
};

// posed = B c: M vectors of a tile's row for N people. With kFetch the next tile's part of the
// basis is asked for on the way: 449 against 551 us a person, 6 people, whose basis comes from
// memory.
template <typename S, int N, int M, bool kFetch>
EFT_INLINE void blend_columns(const S* basis, const Coefficients<S>& set, S* posed) {
  using V = Vec<S>;
  constexpr int W = kLanes<S>;
  V sum[N][M];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
    const V b = V::load(basis + m * W);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sum[n][m] = b;
  }
  for (int k = 1; k < kCoefficients; ++k) {
    basis += kTileStep;
    if constexpr (kFetch)
      for (int m = 0; m < M * W; m += 64 / static_cast<int>(sizeof(S)))
        __builtin_prefetch(basis + kTileSize + m, 0, 2);
    if constexpr (N < M) {
      V f[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) f[n] = V(set.c[k][n]);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const V b = V::load(basis + m * W);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) sum[n][m] += f[n] * b;
      }
    } else {
      V b[M];
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) b[m] = V::load(basis + m * W);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        const V f(set.c[k][n]);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) sum[n][m] += f * b[m];
      }
    }
  }
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) sum[n][m].store(posed + n * kTileStep + m * W);
}

// Vectors of a row that N people take at a time. One or two people take the most, so that the
// basis streams from memory in its own order.
template <typename S, int N>
constexpr int kColumns = kVectorBytes == 64 ? 3 : (N <= 2 ? 6 : (N <= 4 ? 3 : 2));

// Whole rows of a set that is not full.
template <typename S, int N>
void blend_rest(int count, const S* basis, const Coefficients<S>& set, S* posed) {
  if (count == N) {
    constexpr int M = kColumns<S, N>, W = kLanes<S>;
    for (int column = 0; column < kTileStep; column += M * W)
      blend_columns<S, N, M, true>(basis + column, set, posed + column);
  } else if constexpr (N > 1) {
    blend_rest<S, N - 1>(count, basis, set, posed);
  }
}

// v = sum_runs w (G x + a) + transl for kLanes vertices of one person.
template <typename S>
EFT_INLINE void skin(const cpu::MeshData<S>& mesh,
                     int64_t tile,
                     int offset,
                     const PersonInputs<S>& in,
                     const Vec<S>* x,
                     Vec<S>* v) {
  Vec<S> T[12];
  for (int e = 0; e < 12; ++e) T[e] = Vec<S>(0);
  const int end = mesh.run_ptr[tile + 1];
  for (int r = mesh.run_ptr[tile]; r < end; ++r) {
    const Vec<S> w = Vec<S>::load(mesh.run_weight + static_cast<int64_t>(r) * kTile + offset);
    const S* A = in.A[mesh.run_joint[r]];
#pragma GCC unroll 12
    for (int e = 0; e < 12; ++e) T[e] += w * Vec<S>(A[e]);
  }
  for (int i = 0; i < 3; ++i) {
    v[i] = T[4 * i] * x[0] + T[4 * i + 3];
    v[i] += T[4 * i + 1] * x[1];
    v[i] += T[4 * i + 2] * x[2];
    v[i] += Vec<S>(in.transl[i]);
  }
}

template <typename S>
struct Pass {
  const cpu::MeshForward<S>& args;
  const Coefficients<S>* sets;
  const PersonInputs<S>* inputs;
  int64_t slab, people;  // the slab's first person, and how many there are

  // Rest-pose vertices of one tile for the crew of people first..first + count.
  EFT_INLINE void blend(int64_t tile, int64_t first, int count, S* posed) const {
    constexpr int N = kSet<S>, M = kColumns<S, N>;
    const S* basis = args.mesh.basis + tile * kTileSize;
    const Coefficients<S>* crew = sets + first / N;
    const int full = count / N, rest = count % N;
    for (int column = 0; full > 0 && column < kTileStep; column += M * kLanes<S>) {
      blend_columns<S, N, M, true>(basis + column, crew[0], posed + column);
      for (int s = 1; s < full; ++s)
        blend_columns<S, N, M, false>(basis + column, crew[s], posed + s * N * kTileStep + column);
    }
    if (rest > 0) blend_rest<S, N - 1>(rest, basis, crew[full], posed + full * N * kTileStep);
  }

  // Skins one person's tile and writes it, up to the last vertex.
  EFT_INLINE void finish(int64_t tile, int64_t row, const S* posed) const {
    constexpr int W = kLanes<S>;
    const cpu::MeshData<S>& mesh = args.mesh;
    const int64_t b = slab + row;
    for (int offset = 0; offset < kTile; offset += W) {
      const int64_t vertex = tile * kTile + offset;
      Vec<S> x[3], v[3];
      for (int i = 0; i < 3; ++i) {
        x[i] = Vec<S>::load(posed + i * kTile + offset);
        if (args.posed)
          x[i].store(args.posed + (b * mesh.tiles + tile) * kTileStep + i * kTile + offset);
      }
      skin(mesh, tile, offset, inputs[row], x, v);
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

  void operator()(int64_t block) const {
    constexpr int kMost = kCrew * kSet<S>;
    const int64_t begin = block * kBlock;
    const int64_t end = begin + kBlock < args.mesh.tiles ? begin + kBlock : args.mesh.tiles;
    alignas(64) S posed[kMost * kTileStep];
    for (int64_t first = 0; first < people; first += kMost) {
      const int count = static_cast<int>(people - first < kMost ? people - first : kMost);
      for (int64_t tile = begin; tile < end; ++tile) {
        blend(tile, first, count, posed);
        for (int n = 0; n < count; ++n) finish(tile, first + n, posed + n * kTileStep);
      }
    }
  }
};

// Kinematics of the slab's group: its joints, and what the tiles need.
template <typename S>
void prepare(const cpu::MeshForward<S>& args,
             int64_t slab,
             int64_t group,
             Coefficients<S>* sets,
             PersonInputs<S>* inputs) {
  constexpr int W = kLanes<S>, N = kSet<S>;
  Group<S> q;
  pose_group(args.body, slab + group * W, q);
  person_inputs(q, inputs + group * W);
  Vec<S> c[kCoefficients], joints[kJoints * 3];
  coefficients(q, c);
  for (int l = 0; l < q.n; ++l) {
    const int64_t row = group * W + l;
    for (int k = 0; k < kCoefficients; ++k) sets[row / N].c[k][row % N] = lane(c[k], l);
  }
  for (int j = 0; j < kJoints; ++j)
    for (int i = 0; i < 3; ++i) joints[3 * j + i] = q.chain.g[j][i] + q.transl[i];
  store_lanes(joints, kJoints * 3, q.b0, q.n, args.joints);
}

template <typename S>
void run(const cpu::MeshForward<S>& args) {
  constexpr int W = kLanes<S>, N = kSet<S>;
  const int64_t people = args.body.people, most = people < kSlab ? people : kSlab;
  const int64_t most_sets = (most + N - 1) / N;
  char* memory = static_cast<char*>(
      cpu::scratch(0, most_sets * sizeof(Coefficients<S>) + most * sizeof(PersonInputs<S>)));
  auto* sets = reinterpret_cast<Coefficients<S>*>(memory);
  auto* inputs = reinterpret_cast<PersonInputs<S>*>(sets + most_sets);
  for (int64_t slab = 0; slab < people; slab += kSlab) {
    const int64_t here = people - slab < kSlab ? people - slab : kSlab;
    auto kinematics = [&](int64_t group) { prepare(args, slab, group, sets, inputs); };
    for_each_item(args.pool, (here + W - 1) / W, kKinematicsGrain, kinematics);
    Pass<S> pass{args, sets, inputs, slab, here};
    // A block of one person takes about 8 us.
    const int64_t grain = here < 16 ? 16 / here : 1;
    for_each_item(args.pool, (args.mesh.tiles + kBlock - 1) / kBlock, grain, pass);
  }
}

}  // namespace

void mesh_forward(const cpu::MeshForward<float>& args) { run(args); }
void mesh_forward(const cpu::MeshForward<double>& args) { run(args); }

}  // namespace EFT_ISA
}  // namespace eft_fast

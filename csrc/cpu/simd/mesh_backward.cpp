// Mesh backward, in two steps over chunks of 32 tiles.
//
// 1. Per chunk and person: gradient of the posed vertices, then of the skinning transforms joint by
// joint (a joint's
//    runs add up in registers, one store per joint), then gc = sum over vertices of B^T g.
// 2. Per group of people: the chunks' parts are added in index order, then the chain is walked
// back. The chunks depend on the shape of the mesh alone, so a result depends neither on threads
// nor on the batch.
#include "mesh.h"

namespace eft_fast {
namespace EFT_ISA {
namespace {

constexpr int kChunk = 32;      // tiles; 512 vertices
constexpr int64_t kSlab = 256;  // people at a time: bounds the parts' memory to about 7 MB for SMPL
constexpr int kColumns = 3;     // coefficients whose sums stay in registers, times kPeople

// One chunk's contribution of one person.
template <typename S>
struct alignas(64) Part {
  S c[kCoefficients], transform[kJoints][12], transl[3];
};

// A thread's own memory.
template <typename S>
struct Work {
  S g_posed[8][kChunk][3][kTile];  // of up to kPeople people
  S g[kChunk][3][kTile];           // of one person: incoming gradient, by coordinate
  Vec<S> sums[kCoefficients];      // one person's gc, lanes not yet added
  int32_t runs[kChunk * kJoints], run_tile[kChunk * kJoints];
  int32_t joint_ptr[kJoints + 1];
};

// Sorts a chunk's runs by joint, tiles ascending within a joint.
template <typename S>
void sort_runs(const cpu::MeshData<S>& mesh, int64_t begin, int64_t end, Work<S>& work) {
  int32_t count[kJoints + 1] = {};
  for (int r = mesh.run_ptr[begin]; r < mesh.run_ptr[end]; ++r) ++count[mesh.run_joint[r] + 1];
  for (int j = 0; j < kJoints; ++j) count[j + 1] += count[j];
  for (int j = 0; j <= kJoints; ++j) work.joint_ptr[j] = count[j];
  for (int64_t tile = begin; tile < end; ++tile)
    for (int r = mesh.run_ptr[tile]; r < mesh.run_ptr[tile + 1]; ++r) {
      const int32_t place = count[mesh.run_joint[r]]++;
      work.runs[place] = r;
      work.run_tile[place] = static_cast<int32_t>(tile - begin);
    }
}

// g_posed = (sum_runs w G)^T g for the chunk's vertices of person l; also the gradient of the
// translation.
template <typename S>
void unskin(const cpu::MeshBackward<S>& args,
            const TileInputs<S>& in,
            int l,
            int64_t b,
            int64_t begin,
            int64_t end,
            Work<S>& work,
            S (*g_posed)[3][kTile],
            Part<S>& part) {
  constexpr int W = kLanes<S>;
  const cpu::MeshData<S>& mesh = args.mesh;
  Vec<S> total[3] = {Vec<S>(0), Vec<S>(0), Vec<S>(0)};
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t t = tile - begin;
    for (int offset = 0; offset < kTile; offset += W) {
      const int64_t vertex = tile * kTile + offset;
      const S* in_g = args.g_vertices + (b * mesh.vertices + vertex) * 3;
      alignas(64) S last[3 * W] = {};
      if (vertex + W > mesh.vertices) {
        for (int64_t i = 0; i < 3 * (mesh.vertices - vertex); ++i) last[i] = in_g[i];
        in_g = last;
      }
      Vec<S> g[3];
      load_points(in_g, g[0], g[1], g[2]);
      Vec<S> T[9];
      for (int e = 0; e < 9; ++e) T[e] = Vec<S>(0);
      for (int r = mesh.run_ptr[tile]; r < mesh.run_ptr[tile + 1]; ++r) {
        const Vec<S> w = Vec<S>::load(mesh.run_weight + static_cast<int64_t>(r) * kTile + offset);
        const Vec<S>* A = in.A[mesh.run_joint[r]];
#pragma GCC unroll 9
        for (int e = 0; e < 9; ++e) T[e] += w * person(A[e + e / 3], l);
      }
      for (int k = 0; k < 3; ++k) {
        Vec<S> gx = T[k] * g[0];
        gx += T[3 + k] * g[1];
        gx += T[6 + k] * g[2];
        gx.store(g_posed[t][k] + offset);
        g[k].store(work.g[t][k] + offset);
        total[k] += g[k];
      }
    }
  }
  for (int i = 0; i < 3; ++i) part.transl[i] = lane_sum(total[i]);
}

// Gradient of the transforms: joint j gets sum w [g x^T | g], runs in ascending tile order.
template <typename S>
void transform_gradients(const cpu::MeshData<S>& mesh,
                         const S* posed,
                         const Work<S>& work,
                         Part<S>& part) {
  constexpr int W = kLanes<S>;
  for (int j = 0; j < kJoints; ++j) {
    S* out = part.transform[j];
    const int first = work.joint_ptr[j], end = work.joint_ptr[j + 1];
    if (first == end) {
      for (int e = 0; e < 12; ++e) out[e] = 0;
      continue;
    }
    Vec<S> sum[12];
    for (int e = 0; e < 12; ++e) sum[e] = Vec<S>(0);
    for (int r = first; r < end; ++r)
      for (int offset = 0; offset < kTile; offset += W) {
        const int t = work.run_tile[r];
        const S* x = posed + t * kTileStep + offset;
        const Vec<S> w =
            Vec<S>::load(mesh.run_weight + static_cast<int64_t>(work.runs[r]) * kTile + offset);
#pragma GCC unroll 3
        for (int i = 0; i < 3; ++i) {
          const Vec<S> wg = w * Vec<S>::load(work.g[t][i] + offset);
#pragma GCC unroll 3
          for (int k = 0; k < 3; ++k) sum[4 * i + k] += wg * Vec<S>::load(x + k * kTile);
          sum[4 * i + 3] += wg;
        }
      }
    for (int e = 0; e < 12; ++e) out[e] = lane_sum(sum[e]);
  }
}

// gc of N people, kColumns coefficients at a time in registers. Order of every sum: tiles,
// coordinates.
template <typename S, int N>
void coefficient_gradients(const S* basis, int tiles, const Work<S>& work, Part<S>* const* parts) {
  constexpr int W = kLanes<S>;
  using V = Vec<S>;
  for (int k0 = 1; k0 < kCoefficients; k0 += kColumns) {
    // The last columns overlap the ones before: the same numbers are written twice.
    const int k = k0 + kColumns <= kCoefficients ? k0 : kCoefficients - kColumns;
    V sum[N][kColumns];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
      for (int c = 0; c < kColumns; ++c) sum[n][c] = V(0);
    for (int t = 0; t < tiles; ++t) {
      const S* tile = basis + t * kTileSize + k * kTileStep;
      for (int i = 0; i < kTileStep; i += W) {
        V b[kColumns];
#pragma GCC unroll 4
        for (int c = 0; c < kColumns; ++c) b[c] = V::load(tile + c * kTileStep + i);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
          const V g = V::load(&work.g_posed[n][t][0][0] + i);
#pragma GCC unroll 4
          for (int c = 0; c < kColumns; ++c) sum[n][c] += g * b[c];
        }
      }
    }
    for (int n = 0; n < N; ++n)
      for (int c = 0; c < kColumns; ++c) parts[n]->c[k + c] = lane_sum(sum[n][c]);
  }
}

// The same sums for one person: here the basis comes from memory, so it is read in its own order,
// and the sums wait in the cache instead.
template <typename S>
void coefficient_gradients_one(const S* basis, int tiles, Work<S>& work, int n, Part<S>& part) {
  constexpr int W = kLanes<S>;
  for (int k = 0; k < kCoefficients; ++k) work.sums[k] = Vec<S>(0);
  for (int t = 0; t < tiles; ++t) {
    const S* g = &work.g_posed[n][t][0][0];
    for (int k = 1; k < kCoefficients; ++k) {
      const S* b = basis + t * kTileSize + k * kTileStep;
      Vec<S> sum = work.sums[k];
#pragma GCC unroll 12
      for (int i = 0; i < kTileStep; i += W) sum += Vec<S>::load(g + i) * Vec<S>::load(b + i);
      work.sums[k] = sum;
    }
  }
  for (int k = 1; k < kCoefficients; ++k) part.c[k] = lane_sum(work.sums[k]);
}

template <typename S>
struct Pass {
  const cpu::MeshBackward<S>& args;
  const TileInputs<S>* inputs;
  Part<S>* parts;
  int64_t slab, people, chunks;

  template <int N>
  void columns(int count, const S* basis, int tiles, Work<S>& work, Part<S>* const* own) const {
    if (count == N) {
      coefficient_gradients<S, N>(basis, tiles, work, own);
    } else if constexpr (N > 3) {
      columns<N - 1>(count, basis, tiles, work, own);
    } else {
      for (int n = 0; n < count; ++n) coefficient_gradients_one(basis, tiles, work, n, *own[n]);
    }
  }

  // Item: one group of one chunk; neighbours share the chunk.
  void operator()(int64_t item) const {
    constexpr int W = kLanes<S>;
    const int64_t groups = (people + W - 1) / W, chunk = item / groups, group = item % groups;
    const cpu::MeshData<S>& mesh = args.mesh;
    const int64_t begin = chunk * kChunk;
    const int64_t end = begin + kChunk < mesh.tiles ? begin + kChunk : mesh.tiles;
    const int tiles = static_cast<int>(end - begin);
    auto& work = *static_cast<Work<S>*>(cpu::scratch(1, sizeof(Work<S>)));
    sort_runs(mesh, begin, end, work);
    const TileInputs<S>& in = inputs[group];
    const int n = group_size<S>(people, group * W);
    for (int first = 0; first < n; first += kPeople<S>) {
      const int count = n - first < kPeople<S> ? n - first : kPeople<S>;
      Part<S>* own[8];
      for (int i = 0; i < count; ++i) {
        const int64_t row = group * W + first + i, b = slab + row;
        own[i] = parts + row * chunks + chunk;
        unskin(args, in, first + i, b, begin, end, work, work.g_posed[i], *own[i]);
        transform_gradients(mesh, args.posed + (b * mesh.tiles + begin) * kTileStep, work, *own[i]);
      }
      columns<kPeople<S>>(count, mesh.basis + begin * kTileSize, tiles, work, own);
    }
  }

  // Adds the chunks of a group in index order.
  void gather(const Group<S>& q, int64_t first_row, GroupGradients<S>& g) const {
    constexpr int W = kLanes<S>;
    constexpr int kValues = sizeof(Part<S>) / sizeof(S);
    S sum[kValues];
    for (int l = 0; l < W; ++l) {
      for (int i = 0; i < kValues; ++i) sum[i] = 0;
      for (int64_t chunk = 0; l < q.n && chunk < chunks; ++chunk) {
        const S* part = reinterpret_cast<const S*>(parts + (first_row + l) * chunks + chunk);
        for (int i = 1; i < kCoefficients + kJoints * 12 + 3; ++i) sum[i] += part[i];
      }
      const S* transform = sum + kCoefficients;
      auto put = [l](Vec<S>& to, S value) { reinterpret_cast<S*>(&to)[l] = value; };
      for (int k = 0; k < kCoefficients; ++k) put(g.c[k], sum[k]);
      for (int j = 0; j < kJoints; ++j)
        for (int i = 0; i < 3; ++i) {
          for (int k = 0; k < 3; ++k) put(g.G[j][3 * i + k], transform[12 * j + 4 * i + k]);
          put(g.a[j][i], transform[12 * j + 4 * i + 3]);
        }
      for (int i = 0; i < 3; ++i) put(g.transl[i], transform[12 * kJoints + i]);
    }
  }
};

template <typename S>
void run(const cpu::MeshBackward<S>& args) {
  constexpr int W = kLanes<S>;
  const int64_t people = args.body.people, chunks = (args.mesh.tiles + kChunk - 1) / kChunk;
  const int64_t most = people < kSlab ? people : kSlab, most_groups = (most + W - 1) / W;
  const size_t parts_bytes = most * chunks * sizeof(Part<S>);
  char* memory = static_cast<char*>(
      cpu::scratch(0, most_groups * (sizeof(TileInputs<S>) + sizeof(Group<S>)) + parts_bytes));
  auto* inputs = reinterpret_cast<TileInputs<S>*>(memory);
  auto* poses = reinterpret_cast<Group<S>*>(memory + most_groups * sizeof(TileInputs<S>));
  auto* parts = reinterpret_cast<Part<S>*>(poses + most_groups);
  for (int64_t slab = 0; slab < people; slab += kSlab) {
    const int64_t here = people - slab < kSlab ? people - slab : kSlab, groups = (here + W - 1) / W;
    auto kinematics = [&](int64_t group) {
      pose_group(args.body, slab + group * W, poses[group]);
      tile_inputs(poses[group], inputs[group]);
    };
    for_each_item(args.pool, groups, kKinematicsGrain, kinematics);
    Pass<S> pass{args, inputs, parts, slab, here, chunks};
    // A chunk of one person takes about 35 us.
    for_each_item(args.pool, groups * chunks, here < 4 ? 4 / here : 1, pass);
    auto finish = [&](int64_t group) {
      Group<S>& q = poses[group];
      GroupGradients<S> g;
      pass.gather(q, group * W, g);
      load_lanes(args.g_joints, kJoints * 3, q.b0, q.n, &g.joints[0][0]);
      for (int j = 0; j < kJoints; ++j)
        for (int i = 0; i < 3; ++i) g.transl[i] += g.joints[j][i];
      pose_group_backward(args.body, q, g, args.out);
    };
    for_each_item(args.pool, groups, kKinematicsGrain, finish);
  }
}

}  // namespace

void mesh_backward(const cpu::MeshBackward<float>& args) { run(args); }
void mesh_backward(const cpu::MeshBackward<double>& args) { run(args); }

}  // namespace EFT_ISA
}  // namespace eft_fast

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

// gc: sums of kPeople people times kColumns coefficients stay in registers over a panel of tiles
// (168 kB of basis in float32), and in the second cache between panels; a crew shares a panel.
// 227 us a person where a set after the other read the whole chunk's basis in 474 (8 people, AVX2).
template <typename S>
constexpr int kPeople = kVectorBytes == 64 ? 8 : 4;
constexpr int kColumns = 3;
constexpr int kPanel = 4;  // tiles
constexpr int kCrew = 16;  // people; a multiple of the lanes

// One chunk's contribution of one person.
template <typename S>
struct alignas(64) Part {
  S c[kCoefficients], transform[kJoints][12], transl[3];
};

// A thread's own memory.
template <typename S>
struct Work {
  S g_posed[kCrew][kChunk][3][kTile];
  S g[kChunk][3][kTile];              // of one person: incoming gradient, by coordinate
  Vec<S> sums[kCrew][kCoefficients];  // gc, lanes not yet added
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

// g_posed = (sum_runs w G)^T g for the chunk's vertices of one person; also the gradient of the
// translation.
template <typename S>
void unskin(const cpu::MeshBackward<S>& args,
            const PersonInputs<S>& in,
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
        const S* A = in.A[mesh.run_joint[r]];
#pragma GCC unroll 9
        for (int e = 0; e < 9; ++e) T[e] += w * Vec<S>(A[e + e / 3]);
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

// Adds a panel of tiles to the sums of N people and C coefficients. Order of every sum: tiles,
// coordinates. With kFetch the next panel's part of the basis is asked for on the way.
template <typename S, int N, int C, bool kFetch>
EFT_INLINE void add_panel(const S* basis, int first, int tiles, int k, int person, Work<S>& work) {
  constexpr int W = kLanes<S>;
  using V = Vec<S>;
  V sum[N][C];
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) sum[n][c] = work.sums[person + n][k + c];
  for (int t = first; t < first + tiles; ++t) {
    const S* tile = basis + t * kTileSize + k * kTileStep;
    for (int i = 0; i < kTileStep; i += W) {
      V b[C];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) b[c] = V::load(tile + c * kTileStep + i);
      if (kFetch && i % (64 / static_cast<int>(sizeof(S))) == 0)
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c)
          __builtin_prefetch(tile + kPanel * kTileSize + c * kTileStep + i, 0, 2);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        const V g = V::load(&work.g_posed[person + n][t][0][0] + i);
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) sum[n][c] += g * b[c];
      }
    }
  }
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) work.sums[person + n][k + c] = sum[n][c];
}

// The same for one person and all coefficients: then the basis comes from memory, so it is read in
// its own order.
template <typename S>
void add_panel_of_one(const S* basis, int first, int tiles, int person, Work<S>& work) {
  constexpr int W = kLanes<S>;
  for (int t = first; t < first + tiles; ++t) {
    const S* g = &work.g_posed[person][t][0][0];
    for (int k = 1; k < kCoefficients; ++k) {
      const S* b = basis + t * kTileSize + k * kTileStep;
      for (int i = 0; i < kTileStep; i += 64 / static_cast<int>(sizeof(S)))
        __builtin_prefetch(b + kTileSize + i, 0, 2);
      Vec<S> sum = work.sums[person][k];
#pragma GCC unroll 12
      for (int i = 0; i < kTileStep; i += W) sum += Vec<S>::load(g + i) * Vec<S>::load(b + i);
      work.sums[person][k] = sum;
    }
  }
}

// Columns k of a crew of people, N at a time.
template <typename S, int C, bool kFetch = true, int N = kPeople<S>>
EFT_INLINE void add_columns(
    const S* basis, int first, int tiles, int k, int count, Work<S>& work, int person = 0) {
  if (person + N <= count) {
    add_panel<S, N, C, kFetch>(basis, first, tiles, k, person, work);
    for (person += N; person + N <= count; person += N)
      add_panel<S, N, C, false>(basis, first, tiles, k, person, work);
    if constexpr (N > 1)
      if (person < count)
        add_columns<S, C, false, N / 2>(basis, first, tiles, k, count, work, person);
  } else if constexpr (N > 1) {
    add_columns<S, C, kFetch, N / 2>(basis, first, tiles, k, count, work, person);
  }
}

// gc of a crew.
template <typename S>
void coefficient_gradients(
    const S* basis, int tiles, int count, Work<S>& work, Part<S>* const* parts) {
  for (int n = 0; n < count; ++n)
    for (int k = 1; k < kCoefficients; ++k) work.sums[n][k] = Vec<S>(0);
  for (int first = 0; first < tiles; first += kPanel) {
    const int panel = first + kPanel < tiles ? kPanel : tiles - first;
    if (count == 1) {
      add_panel_of_one(basis, first, panel, 0, work);
      continue;
    }
    int k = 1;
    for (; k + kColumns <= kCoefficients; k += kColumns)
      add_columns<S, kColumns>(basis, first, panel, k, count, work);
    for (; k < kCoefficients; ++k) add_columns<S, 1>(basis, first, panel, k, count, work);
  }
  for (int n = 0; n < count; ++n)
    for (int k = 1; k < kCoefficients; ++k) parts[n]->c[k] = lane_sum(work.sums[n][k]);
}

template <typename S>
struct Pass {
  const cpu::MeshBackward<S>& args;
  const PersonInputs<S>* inputs;
  Part<S>* parts;
  int64_t slab, people, chunks;

  // Item: one crew of one chunk; neighbours share the chunk.
  void operator()(int64_t item) const {
    const int64_t crews = (people + kCrew - 1) / kCrew, chunk = item / crews;
    const int64_t first = item % crews * kCrew;
    const cpu::MeshData<S>& mesh = args.mesh;
    const int64_t begin = chunk * kChunk;
    const int64_t end = begin + kChunk < mesh.tiles ? begin + kChunk : mesh.tiles;
    const int tiles = static_cast<int>(end - begin);
    const int count = static_cast<int>(people - first < kCrew ? people - first : kCrew);
    auto& work = *static_cast<Work<S>*>(cpu::scratch(1, sizeof(Work<S>)));
    sort_runs(mesh, begin, end, work);
    Part<S>* own[kCrew];
    for (int i = 0; i < count; ++i) {
      const int64_t row = first + i, b = slab + row;
      own[i] = parts + row * chunks + chunk;
      unskin(args, inputs[row], b, begin, end, work, work.g_posed[i], *own[i]);
      transform_gradients(mesh, args.posed + (b * mesh.tiles + begin) * kTileStep, work, *own[i]);
    }
    coefficient_gradients(mesh.basis + begin * kTileSize, tiles, count, work, own);
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
  // Each array begins on a line of the cache: not every set's groups fill whole lines.
  const auto lines = [](size_t bytes) { return (bytes + 63) / 64 * 64; };
  const size_t poses_bytes = lines(most_groups * sizeof(Group<S>));
  const size_t parts_bytes = lines(most * chunks * sizeof(Part<S>));
  char* memory = static_cast<char*>(
      cpu::scratch(0, poses_bytes + parts_bytes + most * sizeof(PersonInputs<S>)));
  auto* poses = reinterpret_cast<Group<S>*>(memory);
  auto* parts = reinterpret_cast<Part<S>*>(memory + poses_bytes);
  auto* inputs = reinterpret_cast<PersonInputs<S>*>(memory + poses_bytes + parts_bytes);
  for (int64_t slab = 0; slab < people; slab += kSlab) {
    const int64_t here = people - slab < kSlab ? people - slab : kSlab, groups = (here + W - 1) / W;
    auto kinematics = [&](int64_t group) {
      pose_group(args.body, slab + group * W, poses[group]);
      person_inputs(poses[group], inputs + group * W);
    };
    for_each_item(args.pool, groups, kKinematicsGrain, kinematics);
    Pass<S> pass{args, inputs, parts, slab, here, chunks};
    // A chunk of one person takes about 35 us.
    const int64_t crews = (here + kCrew - 1) / kCrew;
    for_each_item(args.pool, crews * chunks, here < 4 ? 4 / here : 1, pass);
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

// Draws pictures of triangle meshes: z-buffer, sub-samples, any vertex attributes.
//
// A block owns a tile of 16 x 16 pixels of one picture, and each of its threads one pixel, so
// nothing is written twice and no atomics are needed. Faces reach a tile in their own order: of two
// at equal depth the earlier one wins, as on the CPU. Faces are skipped in groups of 32 by the box
// around them: neighbours in the list are mostly neighbours on the body.
#include "../math/raster.h"
#include "launch.h"
#include "launchers.h"

namespace eft_fast {
namespace {

using math::edge;
using math::GridBox;
using math::GridPoint;
using math::kFixed;

constexpr int kTile = 16;
constexpr int kThreads = kTile * kTile;
constexpr int kWarps = kThreads / 32;
constexpr int kGroup = 32;
// A vertex that is not to be drawn: no snapped coordinate is that small.
constexpr int32_t kUnusable = INT32_MIN;

// Sub-samples of a picture are numbered to 65535, so a box fits 8 bytes; empty where x0 > x1.
struct alignas(8) PackedBox {
  uint16_t x0, y0, x1, y1;
};

struct Meshes {
  int64_t pictures, vertices, faces, groups;
  const int32_t* face;  // [F][3]
  const GridPoint* grid;
  const float* key;
  const PackedBox* face_box;   // [B][F]
  const PackedBox* group_box;  // [B][groups]
};

struct Picture {
  int32_t height, width, samples;
  bool perspective;
};

// What a tile keeps of a face while it looks at it. Vertices are ordered to a positive area.
struct FaceSetup {
  GridPoint p[3];
  float key0, step1, step2;
  int32_t id;
  int32_t bias[3];
  PackedBox box;
};

// False: the face is not to be drawn at all.
__device__ bool load_face(
    const Meshes& mesh, int64_t picture, int64_t face, int32_t v[3], GridPoint p[3]) {
  const GridPoint* grid = mesh.grid + picture * mesh.vertices;
  for (int k = 0; k < 3; ++k) {
    v[k] = mesh.face[3 * face + k];
    if (v[k] < 0 || v[k] >= mesh.vertices) return false;
    p[k] = grid[v[k]];
    if (p[k].x == kUnusable) return false;
  }
  return true;
}

__device__ void order_face(int32_t v[3], GridPoint p[3]) {
  if (edge(p[0], p[1], p[2]) >= 0) return;
  const int32_t v1 = v[1];
  const GridPoint p1 = p[1];
  v[1] = v[2];
  p[1] = p[2];
  v[2] = v1;
  p[2] = p1;
}

__device__ bool overlap(const PackedBox& a, const PackedBox& b) {
  return a.x0 <= b.x1 && b.x0 <= a.x1 && a.y0 <= b.y1 && b.y0 <= a.y1 && a.x0 <= a.x1;
}

__global__ void snap_kernel(
    int64_t count, const float* vertices, Picture size, GridPoint* grid, float* key) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  GridPoint point;
  float k;
  if (!math::snap_vertex(vertices + 3 * i, size.samples, size.perspective, point, k)) {
    point.x = kUnusable;
  }
  grid[i] = point;
  key[i] = k;
}

// One warp per group of faces and picture.
__global__ void box_kernel(Meshes mesh, Picture size, PackedBox* face_box, PackedBox* group_box) {
  const int lane = threadIdx.x % 32;
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (warp >= mesh.pictures * mesh.groups) return;
  const int64_t picture = warp / mesh.groups, group = warp % mesh.groups;
  const int64_t face = group * kGroup + lane;
  GridBox box = {1, 1, 0, 0};
  if (face < mesh.faces) {
    int32_t v[3];
    GridPoint p[3];
    if (load_face(mesh, picture, face, v, p) && edge(p[0], p[1], p[2]) != 0) {
      const int32_t last_x = size.width * size.samples - 1, last_y = size.height * size.samples - 1;
      box = math::face_box(p, last_x, last_y);
      if (box.x0 > box.x1) box = {1, 1, 0, 0};
    }
    face_box[picture * mesh.faces + face] = {static_cast<uint16_t>(box.x0),
                                             static_cast<uint16_t>(box.y0),
                                             static_cast<uint16_t>(box.x1),
                                             static_cast<uint16_t>(box.y1)};
  }
  const bool is_empty = box.x0 > box.x1;
  int32_t low_x = is_empty ? 65535 : box.x0, low_y = is_empty ? 65535 : box.y0;
  int32_t high_x = is_empty ? 0 : box.x1, high_y = is_empty ? 0 : box.y1;
  for (int step = 16; step > 0; step /= 2) {
    low_x = min(low_x, __shfl_xor_sync(0xFFFFFFFFu, low_x, step));
    low_y = min(low_y, __shfl_xor_sync(0xFFFFFFFFu, low_y, step));
    high_x = max(high_x, __shfl_xor_sync(0xFFFFFFFFu, high_x, step));
    high_y = max(high_y, __shfl_xor_sync(0xFFFFFFFFu, high_y, step));
  }
  if (lane == 0) {
    group_box[warp] = {static_cast<uint16_t>(low_x),
                       static_cast<uint16_t>(low_y),
                       static_cast<uint16_t>(high_x),
                       static_cast<uint16_t>(high_y)};
  }
}

// Number of threads before this one that say yes, and how many do in all. Every thread calls it;
// the next call must be behind a barrier.
__device__ int rank_of(bool yes, int* counts, int& total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned votes = __ballot_sync(0xFFFFFFFFu, yes);
  if (lane == 0) counts[warp] = __popc(votes);
  __syncthreads();
  int before = __popc(votes & ((1u << lane) - 1));
  total = 0;
  for (int w = 0; w < kWarps; ++w) {
    before += w < warp ? counts[w] : 0;
    total += counts[w];
  }
  return before;
}

__device__ void set_up(const Meshes& mesh, int64_t picture, int64_t face, FaceSetup& setup) {
  int32_t v[3];
  load_face(mesh, picture, face, v, setup.p);
  order_face(v, setup.p);
  const float* key = mesh.key + picture * mesh.vertices;
  const GridPoint* p = setup.p;
  const float inv_area = 1.0f / static_cast<float>(edge(p[0], p[1], p[2]));
  setup.key0 = key[v[0]];
  setup.step1 = (key[v[1]] - setup.key0) * inv_area;
  setup.step2 = (key[v[2]] - setup.key0) * inv_area;
  setup.id = static_cast<int32_t>(face);
  for (int k = 0; k < 3; ++k) setup.bias[k] = math::edge_bias(p[(k + 1) % 3], p[(k + 2) % 3]);
  setup.box = mesh.face_box[picture * mesh.faces + face];
}

// Depth test of one face on the sub-samples of one pixel; seen_key and seen_face have the stride of
// a block.
__device__ void test_pixel(
    const FaceSetup& face, int32_t x0, int32_t y0, int samples, float* seen_key, int32_t* seen) {
  const PackedBox box = face.box;
  if (x0 > box.x1 || x0 + samples <= box.x0 || y0 > box.y1 || y0 + samples <= box.y0) return;
  for (int sub = 0; sub < samples * samples; ++sub) {
    const int32_t x = x0 + sub % samples, y = y0 + sub / samples;
    if (x < box.x0 || x > box.x1 || y < box.y0 || y > box.y1) continue;
    const GridPoint here = {x * kFixed, y * kFixed};
    const int64_t w0 = edge(face.p[1], face.p[2], here);
    const int64_t w1 = edge(face.p[2], face.p[0], here);
    const int64_t w2 = edge(face.p[0], face.p[1], here);
    if (((w0 + face.bias[0]) | (w1 + face.bias[1]) | (w2 + face.bias[2])) < 0) continue;
    const float z =
        face.key0 + static_cast<float>(w1) * face.step1 + static_cast<float>(w2) * face.step2;
    if (z < seen_key[sub * kThreads]) {
      seen_key[sub * kThreads] = z;
      seen[sub * kThreads] = face.id;
    }
  }
}

// Interpolates attributes once per visible face of the pixel, in the order of the sub-samples.
__device__ void resolve_pixel(const Meshes& mesh,
                              const Picture& size,
                              int64_t picture,
                              int32_t row,
                              int32_t column,
                              const float* seen_key,
                              const int32_t* seen,
                              int64_t channels,
                              const float* attributes,
                              const RasterOutputs& out) {
  const int s = size.samples;
  const float share = 1.0f / static_cast<float>(s * s);
  const int64_t pixel = (picture * size.height + row) * size.width + column;
  float* target = out.image + pixel * channels;
  const float* of_picture = attributes + picture * mesh.vertices * channels;
  const float* keys = mesh.key + picture * mesh.vertices;
  int32_t current = -1, count = 0, v[3] = {};
  GridPoint p[3] = {};
  float key[3] = {}, weights[3] = {}, nearest = INFINITY;
  for (int64_t c = 0; c < channels; ++c) target[c] = 0.0f;
  for (int sub = 0; sub <= s * s; ++sub) {
    const int32_t id = sub < s * s ? seen[sub * kThreads] : -2;
    if (id == -1) continue;
    if (id != current) {
      if (current >= 0) {
        for (int k = 0; k < 3; ++k) weights[k] *= share;
        for (int64_t c = 0; c < channels; ++c) {
          target[c] += weights[0] * of_picture[v[0] * channels + c] +
                       weights[1] * of_picture[v[1] * channels + c] +
                       weights[2] * of_picture[v[2] * channels + c];
        }
      }
      if (id == -2) break;
      current = id;
      load_face(mesh, picture, id, v, p);
      order_face(v, p);
      for (int k = 0; k < 3; ++k) key[k] = keys[v[k]], weights[k] = 0.0f;
    }
    const GridPoint here = {(column * s + sub % s) * kFixed, (row * s + sub / s) * kFixed};
    math::add_weights(p, key, here, size.perspective, weights);
    nearest = fminf(nearest, seen_key[sub * kThreads]);
    ++count;
  }
  out.coverage[pixel] = static_cast<float>(count) * share;
  out.depth[pixel] = count == 0 ? INFINITY : size.perspective ? -1.0f / nearest : nearest;
}

__global__ void draw_kernel(
    Meshes mesh, Picture size, int64_t channels, const float* attributes, RasterOutputs out) {
  EFT_DYNAMIC_SHARED(float, seen_keys);  // then the faces, [samples^2][kThreads] each
  EFT_SHARED(FaceSetup, queue, kThreads);
  EFT_SHARED(int32_t, hit_groups, kThreads);
  EFT_SHARED(int, counts, 2 * kWarps);
  const int s = size.samples, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int32_t tiles_x = (size.width + kTile - 1) / kTile;
  const int64_t tiles = static_cast<int64_t>(tiles_x) * ((size.height + kTile - 1) / kTile);
  const int64_t picture = blockIdx.x / tiles;
  const int32_t tile = static_cast<int32_t>(blockIdx.x % tiles);
  const int32_t left = tile % tiles_x * kTile, top = tile / tiles_x * kTile;
  // A warp owns 8 x 4 pixels: a compact patch leaves more faces out as a whole than a row does.
  const int32_t column = left + warp % 2 * 8 + lane % 8, row = top + warp / 2 * 4 + lane / 8;
  const PackedBox here = {static_cast<uint16_t>(left * s),
                          static_cast<uint16_t>(top * s),
                          static_cast<uint16_t>(min((left + kTile) * s - 1, size.width * s - 1)),
                          static_cast<uint16_t>(min((top + kTile) * s - 1, size.height * s - 1))};

  float* seen_key = seen_keys + threadIdx.x;
  int32_t* seen = reinterpret_cast<int32_t*>(seen_keys + s * s * kThreads) + threadIdx.x;
  for (int sub = 0; sub < s * s; ++sub) {
    seen_key[sub * kThreads] = INFINITY;
    seen[sub * kThreads] = -1;
  }
  for (int64_t first = 0; first < mesh.groups; first += kThreads) {
    const int64_t group = first + threadIdx.x;
    const bool hits =
        group < mesh.groups && overlap(mesh.group_box[picture * mesh.groups + group], here);
    int num_groups;
    const int place = rank_of(hits, counts, num_groups);
    if (hits) hit_groups[place] = static_cast<int32_t>(group);
    __syncthreads();
    for (int g = 0; g < num_groups; g += kWarps) {
      const bool has_group = g + warp < num_groups;
      const int64_t face = has_group ? int64_t{hit_groups[g + warp]} * kGroup + lane : mesh.faces;
      const bool touches =
          face < mesh.faces && overlap(mesh.face_box[picture * mesh.faces + face], here);
      int num_faces;
      const int slot = rank_of(touches, counts + kWarps, num_faces);
      if (touches) set_up(mesh, picture, face, queue[slot]);
      __syncthreads();
      for (int q = 0; q < num_faces; ++q) {
        test_pixel(queue[q], column * s, row * s, s, seen_key, seen);
      }
      __syncthreads();
    }
    __syncthreads();
  }
  if (column < size.width && row < size.height) {
    resolve_pixel(mesh, size, picture, row, column, seen_key, seen, channels, attributes, out);
  }
}

template <typename T>
T* take(char*& free, int64_t count) {
  T* const start = reinterpret_cast<T*>(free);
  free += divide_up(count * static_cast<int64_t>(sizeof(T)), 16) * 16;
  return start;
}

unsigned blocks_for(int64_t count, int64_t per_block) {
  return grid_of(divide_up(count, per_block));
}

}  // namespace
}  // namespace eft_fast

int eft_rasterize_f32(int64_t pictures,
                      int64_t num_vertices,
                      int64_t num_faces,
                      int64_t channels,
                      int64_t height,
                      int64_t width,
                      int64_t samples,
                      int64_t perspective,
                      const float* vertices,
                      const int32_t* faces,
                      const float* attributes,
                      void* workspace,
                      float* image,
                      float* coverage,
                      float* depth,
                      void* stream) {
  using namespace eft_fast;
  if (pictures == 0) return 0;
  const int64_t groups = divide_up(num_faces, kGroup);
  char* free = static_cast<char*>(workspace);
  auto* grid = take<GridPoint>(free, pictures * num_vertices);
  auto* key = take<float>(free, pictures * num_vertices);
  auto* face_box = take<PackedBox>(free, pictures * num_faces);
  auto* group_box = take<PackedBox>(free, pictures * groups);
  const Meshes mesh = {
      pictures, num_vertices, num_faces, groups, faces, grid, key, face_box, group_box};
  const Picture size = {static_cast<int32_t>(height),
                        static_cast<int32_t>(width),
                        static_cast<int32_t>(samples),
                        perspective != 0};
  if (num_vertices > 0) {
    const int64_t count = pictures * num_vertices;
    EFT_LAUNCH(snap_kernel,
               blocks_for(count, kThreads),
               kThreads,
               0,
               stream,
               count,
               vertices,
               size,
               grid,
               key);
  }
  if (groups > 0) {
    EFT_LAUNCH(box_kernel,
               blocks_for(pictures * groups, kWarps),
               kThreads,
               0,
               stream,
               mesh,
               size,
               face_box,
               group_box);
  }
  const int bytes = static_cast<int>(raster_shared_bytes(samples));
  // Taken off, so that the next launch is not told of it.
  if (allow_shared(draw_kernel, bytes) != cudaSuccess) return cudaGetLastError();
  const int64_t tiles = divide_up(width, kTile) * divide_up(height, kTile);
  EFT_LAUNCH(draw_kernel,
             grid_of(pictures * tiles),
             kThreads,
             bytes,
             stream,
             mesh,
             size,
             channels,
             attributes,
             RasterOutputs{image, coverage, depth});
  return cudaGetLastError();
}

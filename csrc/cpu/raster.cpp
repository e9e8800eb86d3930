#include "raster.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace eft_fast {
namespace {

using math::edge;
using math::GridPoint;
using math::kFixed;

// Boxes up to this side keep every edge value below 2^31, so the inner loop may run in int32.
constexpr int64_t kSmallBox = 1 << 14;
// Rows of one band: depth and face numbers of 16 x 256 pixels at 2 x 2 stay in the L2 cache.
constexpr int32_t kBandRows = 16;
constexpr float kEmpty = std::numeric_limits<float>::infinity();

}  // namespace

// What one band has seen so far, per sub-sample.
struct Raster::Band {
  int32_t y0, y1;  // sub-sample rows, end exclusive
  int32_t stride;
  int32_t touched_x0, touched_x1;  // columns that any face's box reached
  std::vector<float> key;
  std::vector<int32_t> face;
};

Raster::Raster(RasterSize size,
               bool perspective,
               const float* vertices,
               int64_t num_vertices,
               const int32_t* faces,
               int64_t num_faces,
               const float* attributes,
               int64_t channels)
    : size_(size), perspective_(perspective), attributes_(attributes), channels_(channels) {
  snap_vertices(vertices, num_vertices);
  collect_faces(faces, num_faces);
  sort_into_bands();
}

int64_t Raster::num_bands() const { return (size_.height + kBandRows - 1) / kBandRows; }

void Raster::snap_vertices(const float* vertices, int64_t num_vertices) {
  grid_.resize(num_vertices);
  key_.resize(num_vertices);
  usable_.resize(num_vertices);
  for (int64_t i = 0; i < num_vertices; ++i) {
    usable_[i] =
        math::snap_vertex(vertices + 3 * i, size_.samples, perspective_, grid_[i], key_[i]);
  }
}

void Raster::collect_faces(const int32_t* faces, int64_t num_faces) {
  const int32_t last_x = size_.width * size_.samples - 1, last_y = size_.height * size_.samples - 1;
  faces_.reserve(num_faces);
  for (int64_t i = 0; i < num_faces; ++i) {
    const int32_t* f = faces + 3 * i;
    if (!usable_[f[0]] || !usable_[f[1]] || !usable_[f[2]]) continue;
    const GridPoint p[3] = {grid_[f[0]], grid_[f[1]], grid_[f[2]]};
    RasterFace face;
    face.box = math::face_box(p, last_x, last_y);
    if (face.box.x0 > face.box.x1) continue;
    const int64_t area = edge(p[0], p[1], p[2]);
    if (area == 0) continue;
    face.v[0] = f[0];
    face.v[1] = area > 0 ? f[1] : f[2];
    face.v[2] = area > 0 ? f[2] : f[1];
    faces_.push_back(face);
  }
}

// Without lists every band would go through all faces, most of which lie in other bands.
void Raster::sort_into_bands() {
  const int32_t rows = kBandRows * size_.samples;
  ends_.assign(num_bands() + 1, 0);
  for (const RasterFace& face : faces_) {
    for (int32_t b = face.box.y0 / rows; b <= face.box.y1 / rows; ++b) ++ends_[b + 1];
  }
  for (size_t b = 1; b < ends_.size(); ++b) ends_[b] += ends_[b - 1];
  order_.resize(ends_.back());
  for (size_t id = 0; id < faces_.size(); ++id) {
    const math::GridBox& box = faces_[id].box;
    for (int32_t b = box.y0 / rows; b <= box.y1 / rows; ++b) {
      order_[ends_[b]++] = static_cast<int32_t>(id);
    }
  }
}

// Depth test of one triangle on the rows of this band. Equal depth keeps the earlier face.
template <typename Int>
void Raster::fill_face(int32_t id, Band& band) const {
  const RasterFace& face = faces_[id];
  const int32_t y0 = std::max(face.box.y0, band.y0), y1 = std::min(face.box.y1, band.y1 - 1);
  const GridPoint p[3] = {grid_[face.v[0]], grid_[face.v[1]], grid_[face.v[2]]};
  const GridPoint first = {face.box.x0 * kFixed, y0 * kFixed};
  const float inv_area = 1.0f / static_cast<float>(edge(p[0], p[1], p[2]));
  const float key0 = key_[face.v[0]];
  const float step1 = (key_[face.v[1]] - key0) * inv_area;
  const float step2 = (key_[face.v[2]] - key0) * inv_area;
  // Edge k is opposite vertex k; its value over the area is the weight of that vertex.
  Int row[3], bias[3], dx[3], dy[3];
  for (int k = 0; k < 3; ++k) {
    const GridPoint a = p[(k + 1) % 3], b = p[(k + 2) % 3];
    bias[k] = math::edge_bias(a, b);
    row[k] = static_cast<Int>(edge(a, b, first));
    dx[k] = static_cast<Int>(a.y - b.y) * kFixed;
    dy[k] = static_cast<Int>(b.x - a.x) * kFixed;
  }
  for (int32_t y = y0; y <= y1; ++y) {
    float* key = band.key.data() + int64_t{y - band.y0} * band.stride;
    int32_t* seen = band.face.data() + int64_t{y - band.y0} * band.stride;
    Int w0 = row[0], w1 = row[1], w2 = row[2];
    for (int32_t x = face.box.x0; x <= face.box.x1; ++x) {
      if (((w0 + bias[0]) | (w1 + bias[1]) | (w2 + bias[2])) >= 0) {
        const float z = key0 + static_cast<float>(w1) * step1 + static_cast<float>(w2) * step2;
        if (z < key[x]) {
          key[x] = z;
          seen[x] = id;
        }
      }
      w0 += dx[0];
      w1 += dx[1];
      w2 += dx[2];
    }
    for (int k = 0; k < 3; ++k) row[k] += dy[k];
  }
}

void Raster::add_sample(const RasterFace& face, int32_t x, int32_t y, float weights[3]) const {
  const GridPoint p[3] = {grid_[face.v[0]], grid_[face.v[1]], grid_[face.v[2]]};
  const float key[3] = {key_[face.v[0]], key_[face.v[1]], key_[face.v[2]]};
  math::add_weights(p, key, {x * kFixed, y * kFixed}, perspective_, weights);
}

// Interpolate attributes once per pixel and visible triangle: sub-samples of one triangle only add
// to its three weights.
void Raster::resolve_row(int32_t row, const Band& band, const RasterOutput& out) const {
  const int32_t s = size_.samples;
  const float share = 1.0f / static_cast<float>(s * s);
  for (int32_t col = band.touched_x0 / s; col <= band.touched_x1 / s; ++col) {
    const int64_t pixel = int64_t{row} * size_.width + col;
    float* target = out.image + pixel * channels_;
    int32_t current = -1, count = 0;
    float weights[3], nearest = kEmpty;
    const auto flush = [&] {
      if (current < 0) return;
      const RasterFace& face = faces_[current];
      const float* a = attributes_ + face.v[0] * channels_;
      const float* b = attributes_ + face.v[1] * channels_;
      const float* c = attributes_ + face.v[2] * channels_;
      for (int k = 0; k < 3; ++k) weights[k] *= share;
      for (int64_t i = 0; i < channels_; ++i) {
        target[i] += weights[0] * a[i] + weights[1] * b[i] + weights[2] * c[i];
      }
    };
    for (int32_t sub_y = 0; sub_y < s; ++sub_y) {
      const int32_t y = row * s + sub_y;
      const int64_t at = int64_t{y - band.y0} * band.stride + int64_t{col} * s;
      for (int32_t sub_x = 0; sub_x < s; ++sub_x) {
        const int32_t id = band.face[at + sub_x];
        if (id < 0) continue;
        if (id != current) {
          flush();
          current = id;
          weights[0] = weights[1] = weights[2] = 0;
        }
        add_sample(faces_[id], col * s + sub_x, y, weights);
        nearest = std::min(nearest, band.key[at + sub_x]);
        ++count;
      }
    }
    flush();
    if (count == 0) continue;
    out.coverage[pixel] = static_cast<float>(count) * share;
    out.depth[pixel] = perspective_ ? -1.0f / nearest : nearest;
  }
}

void Raster::draw_band(int64_t number, const RasterOutput& out) const {
  const int32_t row0 = static_cast<int32_t>(number) * kBandRows;
  const int32_t row1 = std::min(row0 + kBandRows, size_.height);
  const int64_t pixels = int64_t{row1 - row0} * size_.width, start = int64_t{row0} * size_.width;
  std::fill_n(out.image + start * channels_, pixels * channels_, 0.0f);
  std::fill_n(out.coverage + start, pixels, 0.0f);
  std::fill_n(out.depth + start, pixels, kEmpty);

  Band band{row0 * size_.samples,
            row1 * size_.samples,
            size_.width * size_.samples,
            size_.width * size_.samples,
            -1,
            {},
            {}};
  // After the sort, ends_[b] is where band b ends, and where the next one begins.
  const int64_t begin = number ? ends_[number - 1] : 0, end = ends_[number];
  if (begin == end) return;
  const size_t cells = static_cast<size_t>(band.y1 - band.y0) * band.stride;
  band.key.assign(cells, kEmpty);
  band.face.assign(cells, -1);
  for (int64_t at = begin; at < end; ++at) {
    const int32_t id = order_[at];
    const RasterFace& face = faces_[id];
    band.touched_x0 = std::min(band.touched_x0, face.box.x0);
    band.touched_x1 = std::max(band.touched_x1, face.box.x1);
    // The vertices bound the edge values, not the clipped box.
    int64_t side = 0;
    for (int a = 0; a < 3; ++a) {
      const GridPoint p = grid_[face.v[a]], q = grid_[face.v[(a + 1) % 3]];
      side = std::max<int64_t>({side, std::abs(p.x - q.x), std::abs(p.y - q.y)});
    }
    if (side < kSmallBox) {
      fill_face<int32_t>(id, band);
    } else {
      fill_face<int64_t>(id, band);
    }
  }
  for (int32_t row = row0; row < row1; ++row) resolve_row(row, band, out);
}

}  // namespace eft_fast

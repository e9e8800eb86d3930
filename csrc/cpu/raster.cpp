#include "raster.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace eft_fast {
namespace {

// Vertices snap to 1/256 of a sub-sample, so that edge tests are exact integers: neighbours share
// no sub-sample and leave no gap.
constexpr int32_t kFixed = 256;
// Vertices farther out (half a million pixels at 4 sub-samples) are not drawn: below this limit
// every product of two differences stays under 2^60.
constexpr double kFarthest = 1 << 29;
// Boxes up to this side keep every edge value below 2^31, so the inner loop may run in int32.
constexpr int64_t kSmallBox = 1 << 14;
// Rows of one band: depth and face numbers of 16 x 256 pixels at 2 x 2 stay in the L2 cache.
constexpr int32_t kBandRows = 16;
constexpr float kEmpty = std::numeric_limits<float>::infinity();

struct Point {
  int64_t x, y;
};

// Twice the signed area of (a, b, p).
int64_t edge(Point a, Point b, Point p) {
  return (b.x - a.x) * (p.y - a.y) - (b.y - a.y) * (p.x - a.x);
}

// A sub-sample exactly on an edge belongs to one of the two triangles that share it: they run along
// it in opposite directions, and exactly one of the two is favoured.
int64_t edge_bias(Point a, Point b) {
  const int64_t dx = b.x - a.x, dy = b.y - a.y;
  return (dy > 0 || (dy == 0 && dx > 0)) ? 0 : -1;
}

int32_t floor_div(int64_t a, int32_t b) {
  return static_cast<int32_t>(a >= 0 ? a / b : -((-a + b - 1) / b));
}

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
}

int64_t Raster::num_bands() const { return (size_.height + kBandRows - 1) / kBandRows; }

void Raster::snap_vertices(const float* vertices, int64_t num_vertices) {
  grid_.resize(2 * num_vertices);
  key_.resize(num_vertices);
  usable_.resize(num_vertices);
  const double s = size_.samples;
  for (int64_t i = 0; i < num_vertices; ++i) {
    const float* v = vertices + 3 * i;
    // Sub-sample k of a pixel sits at pixel + (k + 1/2)/s - 1/2.
    const double x = std::rint(((v[0] + 0.5) * s - 0.5) * kFixed);
    const double y = std::rint(((v[1] + 0.5) * s - 0.5) * kFixed);
    const float key = perspective_ ? -1.0f / v[2] : v[2];
    // A comparison with NaN is false, so NaN lands on "not usable" too.
    const bool inside = std::fabs(x) < kFarthest && std::fabs(y) < kFarthest;
    usable_[i] =
        inside && std::isfinite(v[2]) && std::isfinite(key) && !(perspective_ && v[2] <= 0);
    grid_[2 * i] = usable_[i] ? static_cast<int32_t>(x) : 0;
    grid_[2 * i + 1] = usable_[i] ? static_cast<int32_t>(y) : 0;
    key_[i] = key;
  }
}

void Raster::collect_faces(const int32_t* faces, int64_t num_faces) {
  const int32_t last_x = size_.width * size_.samples - 1, last_y = size_.height * size_.samples - 1;
  faces_.reserve(num_faces);
  for (int64_t i = 0; i < num_faces; ++i) {
    const int32_t* f = faces + 3 * i;
    if (!usable_[f[0]] || !usable_[f[1]] || !usable_[f[2]]) continue;
    Point p[3];
    for (int k = 0; k < 3; ++k) p[k] = {grid_[2 * f[k]], grid_[2 * f[k] + 1]};
    const auto [min_x, max_x] = std::minmax({p[0].x, p[1].x, p[2].x});
    const auto [min_y, max_y] = std::minmax({p[0].y, p[1].y, p[2].y});
    RasterFace face;
    face.x0 = std::max(floor_div(min_x + kFixed - 1, kFixed), 0);
    face.y0 = std::max(floor_div(min_y + kFixed - 1, kFixed), 0);
    face.x1 = std::min(floor_div(max_x, kFixed), last_x);
    face.y1 = std::min(floor_div(max_y, kFixed), last_y);
    if (face.x0 > face.x1 || face.y0 > face.y1) continue;
    const int64_t area = edge(p[0], p[1], p[2]);
    if (area == 0) continue;
    face.v[0] = f[0];
    face.v[1] = area > 0 ? f[1] : f[2];
    face.v[2] = area > 0 ? f[2] : f[1];
    faces_.push_back(face);
  }
}

// Depth test of one triangle on the rows of this band. Equal depth keeps the earlier face.
template <typename Int>
void Raster::fill_face(int32_t id, Band& band) const {
  const RasterFace& face = faces_[id];
  const int32_t y0 = std::max(face.y0, band.y0), y1 = std::min(face.y1, band.y1 - 1);
  Point p[3];
  for (int k = 0; k < 3; ++k) p[k] = {grid_[2 * face.v[k]], grid_[2 * face.v[k] + 1]};
  const Point first = {int64_t{face.x0} * kFixed, int64_t{y0} * kFixed};
  const float inv_area = 1.0f / static_cast<float>(edge(p[0], p[1], p[2]));
  const float key0 = key_[face.v[0]];
  const float step1 = (key_[face.v[1]] - key0) * inv_area;
  const float step2 = (key_[face.v[2]] - key0) * inv_area;
  // Edge k is opposite vertex k; its value over the area is the weight of that vertex.
  Int row[3], bias[3], dx[3], dy[3];
  for (int k = 0; k < 3; ++k) {
    const Point a = p[(k + 1) % 3], b = p[(k + 2) % 3];
    bias[k] = static_cast<Int>(edge_bias(a, b));
    row[k] = static_cast<Int>(edge(a, b, first));
    dx[k] = static_cast<Int>((a.y - b.y) * kFixed);
    dy[k] = static_cast<Int>((b.x - a.x) * kFixed);
  }
  for (int32_t y = y0; y <= y1; ++y) {
    float* key = band.key.data() + int64_t{y - band.y0} * band.stride;
    int32_t* seen = band.face.data() + int64_t{y - band.y0} * band.stride;
    Int w0 = row[0], w1 = row[1], w2 = row[2];
    for (int32_t x = face.x0; x <= face.x1; ++x) {
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

// Add the three vertex weights of one sub-sample. They sum to 1.
void Raster::add_sample(const RasterFace& face, int64_t x, int64_t y, float weights[3]) const {
  Point p[3];
  for (int k = 0; k < 3; ++k) p[k] = {grid_[2 * face.v[k]], grid_[2 * face.v[k] + 1]};
  const Point here = {x * kFixed, y * kFixed};
  float w[3] = {static_cast<float>(edge(p[1], p[2], here)),
                static_cast<float>(edge(p[2], p[0], here)),
                static_cast<float>(edge(p[0], p[1], here))};
  if (perspective_) {
    for (int k = 0; k < 3; ++k) w[k] *= -key_[face.v[k]];
  }
  const float scale = 1.0f / (w[0] + w[1] + w[2]);
  for (int k = 0; k < 3; ++k) weights[k] += w[k] * scale;
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
      const int64_t y = int64_t{row} * s + sub_y;
      const int64_t at = (y - band.y0) * band.stride + int64_t{col} * s;
      for (int32_t sub_x = 0; sub_x < s; ++sub_x) {
        const int32_t id = band.face[at + sub_x];
        if (id < 0) continue;
        if (id != current) {
          flush();
          current = id;
          weights[0] = weights[1] = weights[2] = 0;
        }
        add_sample(faces_[id], int64_t{col} * s + sub_x, y, weights);
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
  for (size_t id = 0; id < faces_.size(); ++id) {
    const RasterFace& face = faces_[id];
    if (face.y1 < band.y0 || face.y0 >= band.y1) continue;
    if (band.key.empty()) {
      const size_t cells = static_cast<size_t>(band.y1 - band.y0) * band.stride;
      band.key.assign(cells, kEmpty);
      band.face.assign(cells, -1);
    }
    band.touched_x0 = std::min(band.touched_x0, face.x0);
    band.touched_x1 = std::max(band.touched_x1, face.x1);
    // The vertices bound the edge values, not the clipped box.
    int64_t side = 0;
    for (int a = 0; a < 3; ++a) {
      const int32_t* p = &grid_[2 * face.v[a]];
      const int32_t* q = &grid_[2 * face.v[(a + 1) % 3]];
      side = std::max({side, std::abs(int64_t{p[0]} - q[0]), std::abs(int64_t{p[1]} - q[1])});
    }
    if (side < kSmallBox) {
      fill_face<int32_t>(static_cast<int32_t>(id), band);
    } else {
      fill_face<int64_t>(static_cast<int32_t>(id), band);
    }
  }
  if (band.touched_x1 < 0) return;
  for (int32_t row = row0; row < row1; ++row) resolve_row(row, band, out);
}

}  // namespace eft_fast

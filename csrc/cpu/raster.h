// Z-buffer rasteriser on plain pointers, no torch. Pixel (0, 0) has its centre at x = 0, y = 0.
#pragma once

#include <cstdint>
#include <vector>

#include "../math/raster.h"

namespace eft_fast {

struct RasterSize {
  int32_t height;   // pixels
  int32_t width;    // pixels
  int32_t samples;  // sub-samples along one side of a pixel
};

struct RasterOutput {
  float* image;     // [H, W, C], attributes averaged over all sub-samples; an empty one counts as 0
  float* coverage;  // [H, W], covered share of the sub-samples
  float* depth;     // [H, W], nearest z; infinity where nothing was drawn
};

// A triangle that may touch the picture. Its vertices are ordered so that its area is positive.
struct RasterFace {
  int32_t v[3];
  math::GridBox box;  // not empty
};

// The sub-sample grid and everything that all bands read.
class Raster {
 public:
  // vertices [V, 3] (x, y in pixels, z), faces [F, 3] with every index in [0, V), attributes [V,
  // C]. perspective: z is a distance along the view axis, so 1/z is what is linear on the picture.
  // Triangles with a non-finite vertex, without area, or (perspective) with z <= 0 are left out.
  Raster(RasterSize size,
         bool perspective,
         const float* vertices,
         int64_t num_vertices,
         const int32_t* faces,
         int64_t num_faces,
         const float* attributes,
         int64_t channels);

  int64_t num_bands() const;

  // Draw one horizontal band. Bands touch disjoint rows, so they may run at the same time, and a
  // pixel's value does not depend on how they are shared out.
  void draw_band(int64_t band, const RasterOutput& out) const;

 private:
  struct Band;
  void snap_vertices(const float* vertices, int64_t num_vertices);
  void collect_faces(const int32_t* faces, int64_t num_faces);
  void sort_into_bands();
  template <typename Int>
  void fill_face(int32_t id, Band& band) const;
  void resolve_row(int32_t row, const Band& band, const RasterOutput& out) const;
  void add_sample(const RasterFace& face, int32_t x, int32_t y, float weights[3]) const;

  RasterSize size_;
  bool perspective_;
  const float* attributes_;
  int64_t channels_;
  std::vector<math::GridPoint> grid_;  // [V]
  std::vector<float> key_;             // [V]
  std::vector<uint8_t> usable_;
  std::vector<RasterFace> faces_;
  std::vector<int32_t> order_;  // faces of each band, in their order; band b ends at ends_[b]
  std::vector<int64_t> ends_;
};

}  // namespace eft_fast

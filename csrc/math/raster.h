// Triangles on a grid of sub-samples: what the CPU and the CUDA rasteriser share.
//
// Vertices snap to 1/256 of a sub-sample, so that edge tests are exact integers: neighbours share
// no sub-sample and leave no gap. Pixel (0, 0) has its centre at x = 0, y = 0.
#pragma once

#include "scalar.h"

namespace eft_fast {
namespace math {

constexpr int32_t kFixed = 256;
// Vertices farther out (half a million pixels at 4 sub-samples) are not drawn: below this limit
// every product of two differences stays under 2^60.
constexpr double kFarthest = 1 << 29;

struct GridPoint {
  int32_t x, y;
};

// Sub-samples, inclusive; empty where x0 > x1.
struct GridBox {
  int32_t x0, y0, x1, y1;
};

// vertex: x, y in pixels, z. Sub-sample k of a pixel sits at pixel + (k + 1/2)/samples - 1/2.
// key is linear on the picture and smaller when nearer: z, or -1/z. False: not to be drawn, because
// it is not finite, too far out, or (perspective) not in front.
EFT_HD bool snap_vertex(
    const float* vertex, int32_t samples, bool perspective, GridPoint& point, float& key) {
  const double s = samples;
  const double x = ::rint(((vertex[0] + 0.5) * s - 0.5) * kFixed);
  const double y = ::rint(((vertex[1] + 0.5) * s - 0.5) * kFixed);
  key = perspective ? -1.0f / vertex[2] : vertex[2];
  // A comparison with NaN or infinity on the left is false, so both land on "not usable".
  const bool usable = ::fabs(x) < kFarthest && ::fabs(y) < kFarthest &&
                      ::fabsf(vertex[2]) < INFINITY && ::fabsf(key) < INFINITY &&
                      !(perspective && vertex[2] <= 0);
  point = {usable ? static_cast<int32_t>(x) : 0, usable ? static_cast<int32_t>(y) : 0};
  return usable;
}

// Twice the signed area of (a, b, p). Differences fit 32 bits, their products 64.
EFT_HD int64_t edge(GridPoint a, GridPoint b, GridPoint p) {
  return static_cast<int64_t>(b.x - a.x) * (p.y - a.y) -
         static_cast<int64_t>(b.y - a.y) * (p.x - a.x);
}

// A sub-sample exactly on an edge belongs to one of the two triangles that share it: they run along
// it in opposite directions, and exactly one of the two is favoured.
EFT_HD int32_t edge_bias(GridPoint a, GridPoint b) {
  return (b.y > a.y || (b.y == a.y && b.x > a.x)) ? 0 : -1;
}

EFT_HD int32_t floor_fixed(int32_t a) {
  return a >= 0 ? a / kFixed : -((-a + kFixed - 1) / kFixed);
}

// The sub-samples that a triangle may cover, inside a picture that ends at (last_x, last_y).
EFT_HD GridBox face_box(const GridPoint p[3], int32_t last_x, int32_t last_y) {
  int32_t low_x = p[0].x, high_x = p[0].x, low_y = p[0].y, high_y = p[0].y;
  for (int k = 1; k < 3; ++k) {
    low_x = p[k].x < low_x ? p[k].x : low_x;
    high_x = p[k].x > high_x ? p[k].x : high_x;
    low_y = p[k].y < low_y ? p[k].y : low_y;
    high_y = p[k].y > high_y ? p[k].y : high_y;
  }
  GridBox box = {floor_fixed(low_x + kFixed - 1),
                 floor_fixed(low_y + kFixed - 1),
                 floor_fixed(high_x),
                 floor_fixed(high_y)};
  box.x0 = box.x0 < 0 ? 0 : box.x0;
  box.y0 = box.y0 < 0 ? 0 : box.y0;
  box.x1 = box.x1 > last_x ? last_x : box.x1;
  box.y1 = box.y1 > last_y ? last_y : box.y1;
  if (box.y0 > box.y1) box.x1 = box.x0 - 1;
  return box;
}

// Adds the three vertex weights of one sub-sample; they sum to 1. With perspective, attributes are
// straight in space: the weights on the picture are multiplied by 1/z.
EFT_HD void add_weights(
    const GridPoint p[3], const float key[3], GridPoint here, bool perspective, float weights[3]) {
  float w[3] = {static_cast<float>(edge(p[1], p[2], here)),
                static_cast<float>(edge(p[2], p[0], here)),
                static_cast<float>(edge(p[0], p[1], here))};
  if (perspective) {
    for (int k = 0; k < 3; ++k) w[k] *= -key[k];
  }
  const float scale = 1.0f / (w[0] + w[1] + w[2]);
  for (int k = 0; k < 3; ++k) weights[k] += w[k] * scale;
}

}  // namespace math
}  // namespace eft_fast

// Registration of the rasteriser. CPU only: pictures are drawn after the work, not inside it.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <tuple>

#include "cpu/raster.h"

namespace eft_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

void check_faces(const int32_t* faces, int64_t count, int64_t num_vertices) {
  for (int64_t i = 0; i < count; ++i) {
    STD_TORCH_CHECK(faces[i] >= 0 && faces[i] < num_vertices,
                    "rasterize: faces must index the ",
                    num_vertices,
                    " vertices, got ",
                    faces[i]);
  }
}

std::tuple<Tensor, Tensor, Tensor> rasterize(const Tensor& vertices,
                                             const Tensor& faces,
                                             const Tensor& attributes,
                                             int64_t height,
                                             int64_t width,
                                             int64_t samples,
                                             bool perspective) {
  STD_TORCH_CHECK(vertices.scalar_type() == ScalarType::Float && vertices.is_contiguous() &&
                      vertices.dim() == 2 && vertices.size(1) == 3,
                  "rasterize: vertices must be contiguous float32 [V, 3]");
  STD_TORCH_CHECK(faces.scalar_type() == ScalarType::Int && faces.is_contiguous() &&
                      faces.dim() == 2 && faces.size(1) == 3,
                  "rasterize: faces must be contiguous int32 [F, 3]");
  STD_TORCH_CHECK(attributes.scalar_type() == ScalarType::Float && attributes.is_contiguous() &&
                      attributes.dim() == 2 && attributes.size(0) == vertices.size(0),
                  "rasterize: attributes must be contiguous float32 [V, C] with V as in vertices");
  STD_TORCH_CHECK(samples >= 1 && samples <= 8 && height >= 1 && width >= 1 &&
                      height * samples <= 65536 && width * samples <= 65536,
                  "rasterize: height, width >= 1, samples in 1..8 and at most 65536 sub-samples a "
                  "side expected, got ",
                  height,
                  ", ",
                  width,
                  ", ",
                  samples);
  const auto* face_data = static_cast<const int32_t*>(faces.const_data_ptr());
  check_faces(face_data, faces.size(0) * 3, vertices.size(0));

  const int64_t channels = attributes.size(1);
  Tensor image = torch::stable::new_empty(vertices, {height, width, channels});
  Tensor coverage = torch::stable::new_empty(vertices, {height, width});
  Tensor depth = torch::stable::new_empty(vertices, {height, width});
  const Raster raster(
      {static_cast<int32_t>(height), static_cast<int32_t>(width), static_cast<int32_t>(samples)},
      perspective,
      static_cast<const float*>(vertices.const_data_ptr()),
      vertices.size(0),
      face_data,
      faces.size(0),
      static_cast<const float*>(attributes.const_data_ptr()),
      channels);
  const RasterOutput out = {static_cast<float*>(image.mutable_data_ptr()),
                            static_cast<float*>(coverage.mutable_data_ptr()),
                            static_cast<float*>(depth.mutable_data_ptr())};
  // A thread gets 32 bands (512 rows) or more: a crop takes a few milliseconds, and waking threads
  // for it costs more than it saves as soon as other work wants the cores.
  torch::stable::parallel_for(0, raster.num_bands(), 32, [&](int64_t begin, int64_t end) {
    for (int64_t band = begin; band < end; ++band) raster.draw_band(band, out);
  });
  return {image, coverage, depth};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(eft_fast, m) {
  // vertices [V,3] f32, faces [F,3] i32, attributes [V,C] f32 -> image [H,W,C], coverage [H,W],
  // depth [H,W]
  m.def(
      "rasterize(Tensor vertices, Tensor faces, Tensor attributes, int height, int width, "
      "int samples, bool perspective) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(eft_fast, CPU, m) { m.impl("rasterize", TORCH_BOX(&rasterize)); }

}  // namespace eft_fast

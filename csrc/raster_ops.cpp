// Registration of the rasteriser: checks, allocation, and one call per device; no arithmetic.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <limits>
#include <string>
#include <tuple>

#include "check.h"
#ifdef EFT_FAST_WITH_CUDA
#include "ops_cuda.h"
#endif
#ifndef EFT_FAST_CUDA_EMULATOR
#include "cpu/raster.h"
#endif

namespace eft_fast {
namespace {

constexpr const char* kOp = "rasterize";

using Picture = std::tuple<Tensor, Tensor, Tensor>;

struct RasterArgs {
  int64_t pictures, vertices, faces, channels, height, width, samples;
  bool perspective;
};

// The same words for every device.
RasterArgs check_raster(const Tensor& vertices,
                        const Tensor& faces,
                        const Tensor& attributes,
                        int64_t height,
                        int64_t width,
                        int64_t samples,
                        bool perspective) {
  check_shape(kOp, "vertices", vertices, {-1, -1, 3});
  check_shape(kOp, "faces", faces, {-1, 3});
  check_shape(kOp, "attributes", attributes, {vertices.size(0), vertices.size(1), -1});
  const bool has_types = vertices.scalar_type() == ScalarType::Float &&
                         attributes.scalar_type() == ScalarType::Float &&
                         faces.scalar_type() == ScalarType::Int;
  if (!has_types) refuse("rasterize: vertices and attributes must be float32, and faces int32");
  if (!vertices.is_contiguous() || !attributes.is_contiguous() || !faces.is_contiguous())
    refuse("rasterize: vertices, faces and attributes must be contiguous");
  const auto on_one_device = [&](const Tensor& t) { return t.device() == vertices.device(); };
  if (!on_one_device(faces) || !on_one_device(attributes))
    refuse("rasterize: vertices, faces and attributes must be on one device");
  if (samples < 1 || samples > 8 || height < 1 || width < 1 || height * samples > 65536 ||
      width * samples > 65536)
    refuse(
        "rasterize: height, width >= 1, samples in 1..8 and at most 65536 sub-samples a side "
        "expected, got " +
        std::to_string(height) + ", " + std::to_string(width) + ", " + std::to_string(samples));
  return {vertices.size(0),
          vertices.size(1),
          faces.size(0),
          attributes.size(2),
          height,
          width,
          samples,
          perspective};
}

Picture make_picture(const Tensor& like, const RasterArgs& args) {
  return {torch::stable::new_empty(like, {args.pictures, args.height, args.width, args.channels}),
          torch::stable::new_empty(like, {args.pictures, args.height, args.width}),
          torch::stable::new_empty(like, {args.pictures, args.height, args.width})};
}

#ifndef EFT_FAST_CUDA_EMULATOR

void check_faces(const int32_t* faces, int64_t count, int64_t num_vertices) {
  for (int64_t i = 0; i < count; ++i) {
    if (faces[i] < 0 || faces[i] >= num_vertices)
      refuse("rasterize: faces must index the " + std::to_string(num_vertices) + " vertices, got " +
             std::to_string(faces[i]));
  }
}

Picture rasterize_cpu(const Tensor& vertices,
                      const Tensor& faces,
                      const Tensor& attributes,
                      int64_t height,
                      int64_t width,
                      int64_t samples,
                      bool perspective) {
  const RasterArgs args =
      check_raster(vertices, faces, attributes, height, width, samples, perspective);
  const auto* face_data = static_cast<const int32_t*>(faces.const_data_ptr());
  check_faces(face_data, args.faces * 3, args.vertices);
  const Picture picture = make_picture(vertices, args);
  const auto* vertex_data = static_cast<const float*>(vertices.const_data_ptr());
  const auto* attribute_data = static_cast<const float*>(attributes.const_data_ptr());
  const auto out_of = [](const Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); };
  float* const image = out_of(std::get<0>(picture));
  float* const coverage = out_of(std::get<1>(picture));
  float* const depth = out_of(std::get<2>(picture));

  // A thread gets 32 bands (512 rows) or more: a crop takes a few milliseconds, and waking threads
  // for it costs more than it saves as soon as other work wants the cores.
  const auto draw = [&](int64_t b, int64_t grain) {
    const Raster raster(
        {static_cast<int32_t>(height), static_cast<int32_t>(width), static_cast<int32_t>(samples)},
        perspective,
        vertex_data + b * args.vertices * 3,
        args.vertices,
        face_data,
        args.faces,
        attribute_data + b * args.vertices * args.channels,
        args.channels);
    const int64_t first = b * height * width;
    const RasterOutput out = {image + first * args.channels, coverage + first, depth + first};
    const auto bands = [&](int64_t begin, int64_t end) {
      for (int64_t band = begin; band < end; ++band) raster.draw_band(band, out);
    };
    if (grain > 0) {
      torch::stable::parallel_for(0, raster.num_bands(), grain, bands);
    } else {
      bands(0, raster.num_bands());
    }
  };
  if (args.pictures == 1) {
    draw(0, 32);
  } else {
    torch::stable::parallel_for(0, args.pictures, 2, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) draw(b, 0);
    });
  }
  return picture;
}

#endif

#ifdef EFT_FAST_WITH_CUDA

// Indices are not read here, as that would wait for the GPU; faces with one outside are left out.
Picture rasterize_cuda(const Tensor& vertices,
                       const Tensor& faces,
                       const Tensor& attributes,
                       int64_t height,
                       int64_t width,
                       int64_t samples,
                       bool perspective) {
  const RasterArgs args =
      check_raster(vertices, faces, attributes, height, width, samples, perspective);
  const int64_t tiles = args.pictures * divide_up(height, 16) * divide_up(width, 16);
  if (tiles > std::numeric_limits<int32_t>::max() || args.faces > (int64_t{1} << 31))
    refuse("rasterize: at most 2^31 tiles of 16 x 16 pixels a call expected, got " +
           std::to_string(tiles) + "; draw fewer pictures at a time");
  const DeviceGuard guard(vertices.get_device_index());
  const Picture picture = make_picture(vertices, args);
  const int64_t bytes = raster_workspace_bytes(args.pictures, args.vertices, args.faces);
  const Tensor workspace = torch::stable::new_empty(vertices, {bytes / 4});
  const int code = eft_rasterize_f32(args.pictures,
                                     args.vertices,
                                     args.faces,
                                     args.channels,
                                     height,
                                     width,
                                     samples,
                                     perspective,
                                     read<float>(vertices),
                                     read<int32_t>(faces),
                                     read<float>(attributes),
                                     write<void>(workspace),
                                     write<float>(std::get<0>(picture)),
                                     write<float>(std::get<1>(picture)),
                                     write<float>(std::get<2>(picture)),
                                     current_stream(kOp, vertices));
  check_launch(kOp, code);
  return picture;
}

#endif

}  // namespace
}  // namespace eft_fast

STABLE_TORCH_LIBRARY_FRAGMENT(eft_fast, m) {
  // vertices [B,V,3] f32, faces [F,3] i32, attributes [B,V,C] f32 -> image [B,H,W,C], coverage
  // [B,H,W], depth [B,H,W]
  m.def(
      "rasterize(Tensor vertices, Tensor faces, Tensor attributes, int height, int width, "
      "int samples, bool perspective) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(eft_fast, CPU, m) {
#ifdef EFT_FAST_CUDA_EMULATOR
  m.impl("rasterize", TORCH_BOX(&eft_fast::rasterize_cuda));
#else
  m.impl("rasterize", TORCH_BOX(&eft_fast::rasterize_cpu));
#endif
}

#if defined(EFT_FAST_WITH_CUDA) && !defined(EFT_FAST_CUDA_EMULATOR)
STABLE_TORCH_LIBRARY_IMPL(eft_fast, CUDA, m) {
  m.impl("rasterize", TORCH_BOX(&eft_fast::rasterize_cuda));
}
#endif

// The rasteriser: checks, allocation, and one call per device; no arithmetic.
#include <limits>
#include <string>
#include <tuple>

#include "cpu/raster.h"
#include "device.h"

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

struct RasterCall {
  RasterArgs args;
  const float* vertices;
  const int32_t* faces;
  const float* attributes;
  float *image, *coverage, *depth;
};

// grain: bands that a thread takes at least; 0: this thread draws them all.
inline void draw_picture(const RasterCall& call, int64_t b, int64_t grain) {
  const RasterArgs& args = call.args;
  const Raster raster({static_cast<int32_t>(args.height),
                       static_cast<int32_t>(args.width),
                       static_cast<int32_t>(args.samples)},
                      args.perspective,
                      call.vertices + b * args.vertices * 3,
                      args.vertices,
                      call.faces,
                      args.faces,
                      call.attributes + b * args.vertices * args.channels,
                      args.channels);
  const int64_t first = b * args.height * args.width;
  const RasterOutput out = {
      call.image + first * args.channels, call.coverage + first, call.depth + first};
  const auto bands = [&](int64_t begin, int64_t end) {
    for (int64_t band = begin; band < end; ++band) raster.draw_band(band, out);
  };
  if (grain > 0) {
    torch::stable::parallel_for(0, raster.num_bands(), grain, bands);
  } else {
    bands(0, raster.num_bands());
  }
}

inline void draw(const RasterCall& call, const Cpu&) {
  const int64_t count = call.args.faces * 3, num_vertices = call.args.vertices;
  for (int64_t i = 0; i < count; ++i) {
    if (call.faces[i] < 0 || call.faces[i] >= num_vertices)
      refuse("rasterize: faces must index the " + std::to_string(num_vertices) + " vertices, got " +
             std::to_string(call.faces[i]));
  }
  // A thread gets 32 bands (512 rows) or more: a crop takes a few milliseconds, and waking threads
  // for it costs more than it saves as soon as other work wants the cores.
  if (call.args.pictures == 1) {
    draw_picture(call, 0, 32);
  } else {
    torch::stable::parallel_for(0, call.args.pictures, 2, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) draw_picture(call, b, 0);
    });
  }
}

#ifdef EFT_FAST_WITH_CUDA

// Indices are not read here, as that would wait for the GPU; faces with one outside are left out.
inline void draw(const RasterCall& call, const Cuda& device) {
  const RasterArgs& args = call.args;
  const int64_t tiles = args.pictures * divide_up(args.height, 16) * divide_up(args.width, 16);
  if (tiles > std::numeric_limits<int32_t>::max() || args.faces > (int64_t{1} << 31))
    refuse("rasterize: at most 2^31 tiles of 16 x 16 pixels a call expected, got " +
           std::to_string(tiles) + "; draw fewer pictures at a time");
  if (raster_shared_bytes(args.samples) + kRasterStatic > device.shared()) {
    int64_t most = args.samples;
    while (raster_shared_bytes(most) + kRasterStatic > device.shared()) --most;
    refuse("rasterize: this GPU's shared memory holds at most " + std::to_string(most) +
           " samples a side, got " + std::to_string(args.samples) + "; draw larger and shrink");
  }
  const Tensor workspace =
      device.workspace(raster_workspace_bytes(args.pictures, args.vertices, args.faces) / 4);
  device.check(eft_rasterize_f32(args.pictures,
                                 args.vertices,
                                 args.faces,
                                 args.channels,
                                 args.height,
                                 args.width,
                                 args.samples,
                                 args.perspective,
                                 call.vertices,
                                 call.faces,
                                 call.attributes,
                                 write<void>(workspace),
                                 call.image,
                                 call.coverage,
                                 call.depth,
                                 device.stream()));
}

#endif

template <typename Device>
Picture rasterize(const Tensor& vertices,
                  const Tensor& faces,
                  const Tensor& attributes,
                  int64_t height,
                  int64_t width,
                  int64_t samples,
                  bool perspective) {
  const RasterArgs args =
      check_raster(vertices, faces, attributes, height, width, samples, perspective);
  const Device device(kOp, vertices);
  const Tensor image = empty_as(vertices, {args.pictures, args.height, args.width, args.channels});
  const Tensor coverage = empty_as(vertices, {args.pictures, args.height, args.width});
  const Tensor depth = empty_as(vertices, {args.pictures, args.height, args.width});
  draw(RasterCall{args,
                  read<float>(vertices),
                  read<int32_t>(faces),
                  read<float>(attributes),
                  write<float>(image),
                  write<float>(coverage),
                  write<float>(depth)},
       device);
  return {image, coverage, depth};
}

template <typename Device>
void implement(Library& m) {
  m.impl("rasterize", TORCH_BOX(&rasterize<Device>));
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(eft_fast, m) {
  // vertices [B,V,3] f32, faces [F,3] i32, attributes [B,V,C] f32 -> image [B,H,W,C], coverage
  // [B,H,W], depth [B,H,W]
  m.def(
      "rasterize(Tensor vertices, Tensor faces, Tensor attributes, int height, int width, "
      "int samples, bool perspective) -> (Tensor, Tensor, Tensor)");
}

EFT_IMPLEMENT

}  // namespace eft_fast

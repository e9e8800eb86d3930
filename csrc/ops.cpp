// Every SMPL operator's schema, through the torch stable interface: one binary serves every Python
// and every torch from 2.11. No arithmetic. Shapes are the contract; ops_cpu.cpp and ops_cuda.cpp
// register the implementations.
//
// Letters: B people, V vertices, T = ceil(V / 16) tiles, K outputs, S sources, R rows, N terms, L
// limbs. pose: axis-angle [B,24,3], 6D [B,24,6] or matrices [B,24,3,3]. Plan tensors:
// eft_fast/ops/plans.py.
#include <torch/csrc/stable/library.h>

#include <string>

#define EFT_BODY "Tensor betas, Tensor pose, Tensor? transl, Tensor skeleton, Tensor parents, "
#define EFT_MESH                                                                          \
  "Tensor basis, Tensor slot_idx, Tensor slot_weight, Tensor run_ptr, Tensor run_joint, " \
  "Tensor run_weight, int num_vertices"
#define EFT_POINTS                                                                            \
  "Tensor basis, Tensor basis_t, Tensor term_index, Tensor term_weight, Tensor joint_index, " \
  "Tensor joint_weight, Tensor transl_weight, Tensor output_index"

// Each operator has a twin `<name>_raw` with the same kernel and no autograd formula: for calls
// that record nothing, where the formula's Python layer would cost more than the kernel (16 against
// 11 us, one person's points).
#define EFT_DEF(name, schema) \
  m.def(name schema);         \
  m.def(name "_raw" schema)

STABLE_TORCH_LIBRARY(eft_fast, m) {
  // -> vertices [B,V,3], joints [B,24,3], posed [B,T,3,16] (rest-pose vertices before skinning; [0]
  // unless kept).
  EFT_DEF("smpl_mesh", "(" EFT_BODY EFT_MESH ", bool keep_posed) -> (Tensor, Tensor, Tensor)");
  // Gradients of betas, pose and transl [B,3]; posed is the forward's third output, kept.
  EFT_DEF("smpl_mesh_backward",
          "(Tensor g_vertices, Tensor g_joints, Tensor posed, " EFT_BODY EFT_MESH
          ") -> (Tensor, Tensor, Tensor)");
  // -> points [B,K,3].
  EFT_DEF("smpl_points", "(" EFT_BODY EFT_POINTS ") -> Tensor");
  // Gradients of betas, pose and transl [B,3].
  EFT_DEF("smpl_points_backward",
          "(Tensor g_points, " EFT_BODY EFT_POINTS ") -> (Tensor, Tensor, Tensor)");
  // camera: (s, tx, ty) [B,3], or K, R, t row-major [B,21]. keypoints [B,K,3]: x, y, confidence.
  // limb_index [L,2] i32 and limb_target [B,L,3] (unit direction, weight): both or neither.
  // loss = keypoint_weight * mean over 2K of confidence * penalty(unit * (u - x)) + beta_weight *
  // mean beta^2
  //        + camera_weight * exp(-10 s)^2 + limb_weight * sum of weight * (1 - cos); sigma 0:
  //        squared error.
  // -> loss [B], parts [B,4] (the four unweighted), and the gradients of the loss of
  //    betas, pose, transl [B,3] and camera.
  EFT_DEF("keypoint_loss",
          "(" EFT_BODY
          "Tensor camera, Tensor keypoints, Tensor? limb_index, Tensor? limb_target, " EFT_POINTS
          ", float keypoint_weight, float beta_weight, float camera_weight, float limb_weight, "
          "float unit, float sigma) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

// cpu/dispatch.cpp
extern "C" void eft_fast_simd_names(const char** in_use, char* available, size_t size);

// JSON for ops/_load.py: version, whether CUDA is compiled in, architectures, CPU instruction sets.
extern "C" __attribute__((visibility("default"))) const char* eft_fast_build_info() {
  static thread_local std::string info;
  const char* in_use = nullptr;
  char available[64];
  eft_fast_simd_names(&in_use, available, sizeof(available));
  auto list = [](std::string text) {
    std::string out = "[";
    for (size_t at = 0; !text.empty() && at != std::string::npos;) {
      const size_t comma = text.find(',', at);
      out += (out.size() > 1 ? ",\"" : "\"") + text.substr(at, comma - at) + "\"";
      at = comma == std::string::npos ? comma : comma + 1;
    }
    return out + "]";
  };
#ifdef EFT_FAST_WITH_CUDA
  const char* has_cuda = "true";
#else
  const char* has_cuda = "false";
#endif
  info = std::string("{\"version\":\"") + EFT_FAST_VERSION + "\",\"cuda\":" + has_cuda +
         ",\"archs\":" + list(EFT_FAST_ARCHS) + ",\"simd\":\"" + in_use +
         "\",\"simd_available\":" + list(available) + "}";
  return info.c_str();
}

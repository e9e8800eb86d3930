// Chooses the instruction set of the CPU kernels, and owns their scratch memory.
#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels.h"

namespace eft_fast {

#define EFT_DECLARE_SET(set)                                \
  namespace set {                                           \
  void mesh_forward(const cpu::MeshForward<float>&);        \
  void mesh_forward(const cpu::MeshForward<double>&);       \
  void mesh_backward(const cpu::MeshBackward<float>&);      \
  void mesh_backward(const cpu::MeshBackward<double>&);     \
  void points_forward(const cpu::PointsForward<float>&);    \
  void points_forward(const cpu::PointsForward<double>&);   \
  void points_backward(const cpu::PointsBackward<float>&);  \
  void points_backward(const cpu::PointsBackward<double>&); \
  void keypoint_loss(const cpu::KeypointLoss<float>&);      \
  void keypoint_loss(const cpu::KeypointLoss<double>&);     \
  void body_priors(const cpu::BodyPriors<float>&);          \
  void body_priors(const cpu::BodyPriors<double>&);         \
  void depthwise(const cpu::Depthwise&);                    \
  void depthwise_backward(const cpu::DepthwiseBackward&);   \
  void map_solve(const cpu::MapSolve<float>&);              \
  void map_solve(const cpu::MapSolve<double>&);             \
  void map_evaluate(const cpu::MapEvaluate<float>&);        \
  void map_evaluate(const cpu::MapEvaluate<double>&);       \
  }

#define EFT_TABLE(set)      \
  {#set,                    \
   set::mesh_forward,       \
   set::mesh_forward,       \
   set::mesh_backward,      \
   set::mesh_backward,      \
   set::points_forward,     \
   set::points_forward,     \
   set::points_backward,    \
   set::points_backward,    \
   set::keypoint_loss,      \
   set::keypoint_loss,      \
   set::body_priors,        \
   set::body_priors,        \
   set::depthwise,          \
   set::depthwise_backward, \
   set::map_solve,          \
   set::map_solve,          \
   set::map_evaluate,       \
   set::map_evaluate}

EFT_DECLARE_SET(portable)
#if defined(__x86_64__)
EFT_DECLARE_SET(avx512)
EFT_DECLARE_SET(avx2)
#endif

namespace cpu {
namespace {

// Best first.
const Kernels kTables[] = {
#if defined(__x86_64__)
    EFT_TABLE(avx512),
    EFT_TABLE(avx2),
#endif
    EFT_TABLE(portable),
};

bool runs_here(const Kernels& table) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!std::strcmp(table.name, "avx512")) return __builtin_cpu_supports("x86-64-v4");
  if (!std::strcmp(table.name, "avx2")) return __builtin_cpu_supports("x86-64-v3");
#endif
  return true;
}

const Kernels* find(const char* name) {
  const bool is_auto = !std::strcmp(name, "auto");
  for (const Kernels& table : kTables)
    if ((is_auto || !std::strcmp(table.name, name)) && runs_here(table)) return &table;
  return nullptr;
}

const Kernels*& chosen() {
  static const Kernels* table = find("auto");
  return table;
}

struct Buffer {
  void* memory = nullptr;
  size_t bytes = 0;
  ~Buffer() { std::free(memory); }
};

}  // namespace

const Kernels& kernels() { return *chosen(); }

void* scratch(int slot, size_t bytes) {
  thread_local Buffer buffers[2];
  Buffer& buffer = buffers[slot];
  if (buffer.bytes < bytes) {
    std::free(buffer.memory);
    buffer.bytes = (bytes + 4095) / 4096 * 4096;
    buffer.memory = std::aligned_alloc(64, buffer.bytes);
    if (!buffer.memory) std::abort();
  }
  return buffer.memory;
}

}  // namespace cpu
}  // namespace eft_fast

extern "C" __attribute__((visibility("default"))) int eft_fast_choose_simd(const char* name) {
  const eft_fast::cpu::Kernels* table = eft_fast::cpu::find(name);
  if (!table) return 1;
  eft_fast::cpu::chosen() = table;
  return 0;
}

// Names of the sets, comma-separated: the one in use, then those that run here.
extern "C" void eft_fast_simd_names(const char** in_use, char* available, size_t size) {
  *in_use = eft_fast::cpu::kernels().name;
  std::string names;
  for (const eft_fast::cpu::Kernels& table : eft_fast::cpu::kTables) {
    if (!eft_fast::cpu::runs_here(table)) continue;
    if (!names.empty()) names += ',';
    names += table.name;
  }
  std::strncpy(available, names.c_str(), size - 1);
  available[size - 1] = 0;
}

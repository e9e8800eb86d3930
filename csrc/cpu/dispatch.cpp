// Chooses the instruction set of the CPU kernels, and owns their scratch memory.
#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels.h"

namespace eft_fast {

#define EFT_DECLARE_BOTH(name, Record)  \
  void name(const cpu::Record<float>&); \
  void name(const cpu::Record<double>&);
#define EFT_DECLARE_ONE(name, Record) void name(const cpu::Record&);
#define EFT_DECLARE_SET(set)                         \
  namespace set {                                    \
  EFT_CPU_KERNELS(EFT_DECLARE_BOTH, EFT_DECLARE_ONE) \
  cpu::Kernels table() {                             \
    cpu::Kernels kernels{};                          \
    kernels.name = #set;                             \
    EFT_CPU_KERNELS(EFT_ENTER_BOTH, EFT_ENTER_ONE)   \
    return kernels;                                  \
  }                                                  \
  }
// An assignment picks the overload of its type.
#define EFT_ENTER_BOTH(kernel, Record) kernels.kernel##_f32 = kernel, kernels.kernel##_f64 = kernel;
#define EFT_ENTER_ONE(kernel, Record) kernels.kernel = kernel;

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
    avx512::table(),
    avx2::table(),
#endif
    portable::table(),
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

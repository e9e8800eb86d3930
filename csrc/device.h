// The devices that an operator's body is written over. A body is a template over one of them: it
// checks its inputs, makes the outputs, fills the record of its kernel (cpu/kernels.h) and lets the
// device run it.
//
//   Cpu    the table of cpu/kernels.h, over torch's threads
//   Cuda   the launchers of cuda/launchers.h, on torch's current stream of the tensors' device; a
//          family says how with launch(record, device). Outputs and workspaces come from torch's
//          allocator before a launch, so a call can be captured in a CUDA graph.
//
// With EFT_FAST_CUDA_EMULATOR the CUDA kernels run on the CPU, and Cuda takes the place of Cpu: for
// tests without a GPU.
#pragma once

#include <sys/mman.h>
#include <torch/csrc/stable/library.h>

#include <string>

#include "check.h"
#include "cpu/kernels.h"
#include "tensors.h"

#ifdef EFT_FAST_WITH_CUDA
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include "cuda/launchers.h"
#endif

// EFT_IMPLEMENT registers implement<Device>(library) of a family for every device of this build;
// EFT_IMPLEMENT_CUDA that of a family that torch's own operators serve on the CPU.
#if defined(EFT_FAST_CUDA_EMULATOR)
#define EFT_IMPLEMENT \
  STABLE_TORCH_LIBRARY_IMPL(eft_fast, CPU, m) { implement<Cuda>(m); }
#define EFT_IMPLEMENT_CUDA EFT_IMPLEMENT
#elif defined(EFT_FAST_WITH_CUDA)
#define EFT_IMPLEMENT_CUDA \
  STABLE_TORCH_LIBRARY_IMPL(eft_fast, CUDA, m) { implement<Cuda>(m); }
#define EFT_IMPLEMENT                                                \
  STABLE_TORCH_LIBRARY_IMPL(eft_fast, CPU, m) { implement<Cpu>(m); } \
  EFT_IMPLEMENT_CUDA
#else
#define EFT_IMPLEMENT \
  STABLE_TORCH_LIBRARY_IMPL(eft_fast, CPU, m) { implement<Cpu>(m); }
#define EFT_IMPLEMENT_CUDA
#endif

namespace eft_fast {

using Library = torch::stable::detail::StableLibrary;

// Splits work over torch's threads; alone, or inside a parallel region, it simply runs.
inline void run_pool(int64_t count,
                     int64_t grain,
                     void (*body)(void*, int64_t, int64_t),
                     void* context) {
  if (count <= 0) return;
  if (count <= grain) {
    body(context, 0, count);
    return;
  }
  torch::stable::parallel_for(
      0, count, grain, [=](int64_t begin, int64_t end) { body(context, begin, end); });
}

struct Cpu {
  static constexpr cpu::Pool pool{run_pool};
  // Whether a body may read what lies in a tensor.
  static constexpr bool can_read = true;

  Cpu(const char*, const Tensor&) {}

  // Lists of a plan that only GPUs read; null: the plan has none.
  void keep_lists(const Tensor*) {}

  // Asks for large pages under a big fresh tensor: a first touch costs up to 6 us per 4 kB page
  // (virtual machine, B = 32: 48 of 158 us a person), and every mesh is a first touch. A hint only;
  // the kernel may ignore it.
  Tensor empty_large(const Tensor& like, std::initializer_list<int64_t> shape) const {
    const Tensor t = empty_as(like, shape);
#ifdef MADV_HUGEPAGE
    constexpr uintptr_t kPage = uintptr_t{1} << 21;
    const size_t bytes = t.numel() * (like.scalar_type() == ScalarType::Float ? 4 : 8);
    const auto begin = reinterpret_cast<uintptr_t>(t.mutable_data_ptr());
    const uintptr_t first = (begin + kPage - 1) / kPage * kPage,
                    last = (begin + bytes) / kPage * kPage;
    if (bytes >= 2 * kPage && last > first)
      madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
    return t;
  }

#define EFT_RUN_BOTH(name, Record)                                                        \
  void run(const cpu::Record<float>& record) const { cpu::kernels().name##_f32(record); } \
  void run(const cpu::Record<double>& record) const { cpu::kernels().name##_f64(record); }
#define EFT_RUN_ONE(name, Record) \
  void run(const cpu::Record& record) const { cpu::kernels().name(record); }
  EFT_CPU_KERNELS(EFT_RUN_BOTH, EFT_RUN_ONE)
#undef EFT_RUN_BOTH
#undef EFT_RUN_ONE
};

#ifdef EFT_FAST_WITH_CUDA

class Cuda {
 public:
  static constexpr cpu::Pool pool{nullptr};
  static constexpr bool can_read = false;

  Cuda(const char* op, const Tensor& like)
      : like_(like),
        op_(op)
#ifndef EFT_FAST_CUDA_EMULATOR
        ,
        guard_(like.get_device_index())
#endif
  {
  }

  Tensor empty_large(const Tensor& like, std::initializer_list<int64_t> shape) const {
    return empty_as(like, shape);
  }

  void keep_lists(const Tensor* lists) { lists_ = lists; }

  const int32_t* lists() const {
    if (!lists_)
      refuse(std::string(op_) + ": on a GPU a plan must hold its grouping; move it by to()");
    return read<int32_t>(*lists_);
  }

  // Memory for a kernel, of the type of the inputs.
  Tensor workspace(int64_t elements) const { return empty_as(like_, {elements}); }

  template <typename Record>
  void run(const Record& record) const {
    check(launch(record, *this));
  }

  // Bytes of shared memory that a block may have.
  int64_t shared() const { return eft_cuda_shared_limit(); }

  // Refuses an error code of a launcher.
  void check(int code) const {
    if (code != 0)
      refuse(std::string(op_) + ": the CUDA kernels did not start (error " + std::to_string(code) +
             ": " + eft_cuda_error(code) + ")");
  }

#ifdef EFT_FAST_CUDA_EMULATOR

  void* stream() const { return nullptr; }

 private:
  const Tensor& like_;
  const char* op_;
  const Tensor* lists_ = nullptr;

#else

  // Asked of libtorch_cuda at run time, so that the library also loads beside a torch without CUDA.
  void* stream() const {
    using GetStream = int32_t (*)(int32_t, void**);
    static const auto get_stream = [] {
      void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
      void* const symbol = library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr;
      return reinterpret_cast<GetStream>(symbol);
    }();
    void* stream = nullptr;
    if (!get_stream || get_stream(like_.get_device_index(), &stream) != 0)
      refuse(std::string(op_) +
             ": torch's current CUDA stream was not found; use torch>=2.11 with CUDA, or "
             "backend='torch'");
    return stream;
  }

 private:
  const Tensor& like_;
  const char* op_;
  const Tensor* lists_ = nullptr;
  torch::stable::accelerator::DeviceGuard guard_;

#endif
};

#endif  // EFT_FAST_WITH_CUDA

}  // namespace eft_fast

// The launchers of csrc/cuda, built for the CPU, as a Python module. Pointers travel as integers, 0
// for null. A call with a wrong number or kind of arguments raises TypeError.
#include <pybind11/pybind11.h>

#include <cstdint>

// Includes the headers and lists EFT_EXPOSE(name) for every launcher that they declare; emulator
// writes it.
#define EFT_EXPOSE(name) static_assert(true)
#include "launchers.inc"
#undef EFT_EXPOSE

namespace {

template <typename T>
struct Argument {
  using Type = T;
  static T from(T value) { return value; }
};

template <typename T>
struct Argument<T*> {
  using Type = std::uintptr_t;
  static T* from(std::uintptr_t address) { return reinterpret_cast<T*>(address); }
};

template <typename... Arguments>
void expose(pybind11::module_& module, const char* name, int (*launcher)(Arguments...)) {
  module.def(name, [launcher](typename Argument<Arguments>::Type... arguments) {
    return launcher(Argument<Arguments>::from(arguments)...);
  });
}

}  // namespace

PYBIND11_MODULE(cuda_emulator, module) {
#define EFT_EXPOSE(name) expose(module, #name, name)
#include "launchers.inc"
}

// The state behind cuda_emulator.h: the machine, its running block, and the fibres of that block.
#pragma once

#include <ucontext.h>

#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cuda_emulator.h"

namespace eft_fast::cuda_emulator {

enum class State { kReady, kAtBarrier, kInWarp, kDone };

struct Copy {
  void* target;
  const void* source;
};

struct Fibre {
  std::unique_ptr<ucontext_t> context;  // apart: it is large, and warps look at the rest often
  std::unique_ptr<char[]> stack;
  void* asan_stack = nullptr;
  uint3 thread;
  State state;
  Site site;
  const char* operation;
  unsigned mask;
  void* packet;
  std::vector<std::vector<Copy>> copies;  // groups in flight, oldest first; the last one is open
};

struct SharedArray {
  std::unique_ptr<unsigned char[]> bytes;  // its own, so that AddressSanitizer sees its ends
  size_t size = 0;
  bool fresh = false;  // not yet poisoned for this block
};

struct Machine {
  int order = 0;
  std::mt19937 random;
  std::string message;
  cudaError_t error = cudaSuccess;
  std::map<const void*, int> allowed_shared;
  std::vector<Fibre> fibres;
  int count = 0;  // threads of the running block
  int current = -1;
  void (*thread)(void*) = nullptr;
  void* closure = nullptr;
  std::map<std::pair<std::string, int>, SharedArray> shared;
  SharedArray dynamic;
  ucontext_t scheduler;
  void* asan_scheduler = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
};

extern Machine machine;

inline Fibre& self() { return machine.fibres[machine.current]; }

// The first error stands until cudaGetLastError takes it.
inline void set_error(cudaError_t error, const std::string& message) {
  if (machine.error != cudaSuccess) return;
  machine.error = error;
  machine.message = message;
}

}  // namespace eft_fast::cuda_emulator

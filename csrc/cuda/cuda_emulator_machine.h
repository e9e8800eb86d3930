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

// Who touched four bytes of shared memory; see cuda_emulator_race.cpp.
struct Word {
  uint64_t interval = 0, warp_interval = 0;
  uint32_t readers = 0, writers = 0;            // warps, since the last barrier
  uint32_t lane_readers = 0, lane_writers = 0;  // lanes of one warp, since its last __syncwarp
  int16_t warp = -1;
};

struct SharedArray {
  std::unique_ptr<unsigned char[]> bytes;  // its own, so that AddressSanitizer sees its ends
  size_t size = 0;
  bool fresh = false;  // not yet poisoned for this block
  std::string name = "dynamic shared memory";
  std::vector<Word> words;  // of kernels that are watched for races
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
  // Counts block barriers, and barriers of each warp, of all launches.
  uint64_t interval = 1, warp_intervals[32] = {};
  std::map<std::pair<std::string, int>, SharedArray> shared;
  SharedArray dynamic;
  ucontext_t scheduler;
  void* asan_scheduler = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
};

extern Machine machine;

// Says that the running thread reads or writes here.
void note_access(const void* address, size_t bytes, bool writes, void* code);

inline Fibre& self() { return machine.fibres[machine.current]; }

// The first error stands until cudaGetLastError takes it.
inline void set_error(cudaError_t error, const std::string& message) {
  if (machine.error != cudaSuccess) return;
  machine.error = error;
  machine.message = message;
}

}  // namespace eft_fast::cuda_emulator

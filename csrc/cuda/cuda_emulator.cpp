// The scheduler behind cuda_emulator.h: fibres, barriers, limits and errors.
#include <cstdarg>
#include <cstdio>
#include <numeric>
#include <string_view>

#include "cuda_emulator_machine.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define EFT_ASAN(statement) statement
constexpr size_t kStackBytes = 512 << 10;
#else
#define EFT_ASAN(statement)
constexpr size_t kStackBytes = 128 << 10;
#endif

namespace eft_fast::cuda_emulator {

Machine machine;

namespace {

std::string name(const Site& site) {
  return std::string(basename(site.file)) + ":" + std::to_string(site.line);
}

bool same(const Site& a, const Site& b) {
  return a.line == b.line && (a.file == b.file || std::string_view(a.file) == b.file);
}

// Hands control back to the scheduler; returns when the scheduler resumes this fibre.
void leave(bool for_good) {
  Fibre& fibre = self();
  EFT_ASAN(__sanitizer_start_switch_fiber(for_good ? nullptr : &fibre.asan_stack,
                                          machine.scheduler_stack,
                                          machine.scheduler_stack_bytes));
  swapcontext(fibre.context.get(), &machine.scheduler);
  EFT_ASAN(__sanitizer_finish_switch_fiber(fibre.asan_stack, nullptr, nullptr));
  (void)for_good;
}

void enter() {
  EFT_ASAN(__sanitizer_finish_switch_fiber(
      nullptr, &machine.scheduler_stack, &machine.scheduler_stack_bytes));
  machine.thread(machine.closure);
  Fibre& fibre = self();
  for (const auto& group : fibre.copies) {
    if (!group.empty()) fail("a thread returned before it waited for its asynchronous copies");
  }
  const int first = machine.current & ~31;
  for (int lane = 0; lane < 32 && first + lane < machine.count; ++lane) {
    const Fibre& other = machine.fibres[first + lane];
    if (other.state == State::kInWarp && other.mask >> (machine.current - first) & 1) {
      fail("lane %d returned, but %s at %s waits for it",
           machine.current - first,
           other.operation,
           name(other.site).c_str());
    }
  }
  fibre.state = State::kDone;
  leave(true);
}

void resume(int index) {
  Fibre& fibre = machine.fibres[index];
  machine.current = index;
  threadIdx = fibre.thread;
  EFT_ASAN(__sanitizer_start_switch_fiber(&machine.asan_scheduler, fibre.stack.get(), kStackBytes));
  swapcontext(&machine.scheduler, fibre.context.get());
  machine.current = -1;
  EFT_ASAN(__sanitizer_finish_switch_fiber(machine.asan_scheduler, nullptr, nullptr));
}

void prepare_fibre(int index, const dim3& block) {
  Fibre& fibre = machine.fibres[index];
  if (!fibre.stack) {
    fibre.stack.reset(new char[kStackBytes]);
    fibre.context = std::make_unique<ucontext_t>();
    getcontext(fibre.context.get());
  }
  EFT_ASAN(__asan_unpoison_memory_region(fibre.stack.get(), kStackBytes));
  fibre.thread = {index % block.x, index / block.x % block.y, index / (block.x * block.y)};
  fibre.state = State::kReady;
  fibre.copies.assign(1, {});
  fibre.context->uc_stack.ss_sp = fibre.stack.get();
  fibre.context->uc_stack.ss_size = kStackBytes;
  fibre.context->uc_link = nullptr;
  makecontext(fibre.context.get(), enter, 0);
}

std::vector<int> make_order(int64_t count) {
  std::vector<int> indices(count);
  std::iota(indices.begin(), indices.end(), 0);
  if (machine.order == 1) std::reverse(indices.begin(), indices.end());
  return indices;
}

// What was done before is done for all.
void pass_barrier() {
  ++machine.interval;
  for (uint64_t& interval : machine.warp_intervals) ++interval;
}

// Every thread waits or is done: lets the block barrier open, or says why it cannot.
void open_barrier() {
  const Fibre* first = nullptr;
  int done = 0;
  for (int i = 0; i < machine.count; ++i) {
    const Fibre& fibre = machine.fibres[i];
    if (fibre.state == State::kDone) {
      ++done;
      continue;
    }
    if (!first) first = &fibre;
    if (fibre.state != first->state || !same(fibre.site, first->site)) {
      return set_error(cudaErrorLaunchFailure,
                       std::string("threads wait at different places: ") + first->operation +
                           " at " + name(first->site) + " and " + fibre.operation + " at " +
                           name(fibre.site));
    }
  }
  if (first->state == State::kInWarp) {
    return set_error(cudaErrorLaunchFailure,
                     std::string(first->operation) + " at " + name(first->site) +
                         " waits for lanes that never arrive");
  }
  if (done > 0) {
    const std::string counts = std::to_string(done) + " of " + std::to_string(machine.count);
    return set_error(
        cudaErrorLaunchFailure,
        "__syncthreads at " + name(first->site) + " after " + counts + " threads returned");
  }
  for (int i = 0; i < machine.count; ++i) machine.fibres[i].state = State::kReady;
  pass_barrier();
}

// Resumes the ready threads among some until none is left; returns whether there were any.
bool run_threads(int* first, int* last) {
  bool moved = false;
  for (bool again = true; again && machine.error == cudaSuccess;) {
    again = false;
    if (machine.order == 2) std::shuffle(first, last, machine.random);
    for (int* index = first; index < last && machine.error == cudaSuccess; ++index) {
      if (machine.fibres[*index].state != State::kReady) continue;
      resume(*index);
      again = moved = true;
    }
  }
  return moved;
}

// In the two fixed orders a warp runs as far as it can before the next one starts; in random order
// all warps advance together.
void run_block(std::vector<int>& order, const dim3& block) {
  for (int i = 0; i < machine.count; ++i) prepare_fibre(i, block);
  pass_barrier();
  for (auto& [site, array] : machine.shared) array.fresh = true;
  machine.dynamic.fresh = true;
  const int unit = machine.order == 2 ? machine.count : 32;
  while (machine.error == cudaSuccess) {
    bool moved = false;
    for (int at = 0; at < machine.count; at += unit) {
      moved |= run_threads(order.data() + at, order.data() + std::min(at + unit, machine.count));
    }
    if (moved) continue;
    const auto is_done = [](const Fibre& fibre) { return fibre.state == State::kDone; };
    if (std::all_of(machine.fibres.begin(), machine.fibres.begin() + machine.count, is_done))
      return;
    open_barrier();
  }
}

bool accept(const void* kernel, const dim3& grid, const dim3& block, size_t shared_bytes) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  const bool grid_fits = grid.x >= 1 && grid.x <= 0x7FFFFFFFu && grid.y >= 1 && grid.y <= 65535 &&
                         grid.z >= 1 && grid.z <= 65535;
  if (!grid_fits || threads < 1 || threads > 1024 || block.z > 64) {
    set_error(cudaErrorInvalidConfiguration,
              "a grid or a block of " + std::to_string(threads) + " threads is beyond the limits");
    return false;
  }
  const auto allowed = machine.allowed_shared.find(kernel);
  const size_t limit = allowed == machine.allowed_shared.end() ? kStaticShared : allowed->second;
  if (shared_bytes > limit) {
    set_error(cudaErrorInvalidValue,
              "a launch with " + std::to_string(shared_bytes) + " bytes of shared memory, " +
                  std::to_string(limit) + " are allowed");
    return false;
  }
  return true;
}

}  // namespace

void fail(const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  set_error(cudaErrorLaunchFailure, text);
  leave(true);
  __builtin_unreachable();  // the scheduler drops the block
}

void run(const void* kernel,
         dim3 grid,
         dim3 block,
         size_t shared_bytes,
         void (*thread)(void*),
         void* closure) {
  if (machine.error != cudaSuccess || !accept(kernel, grid, block, shared_bytes)) return;
  machine.message.clear();
  machine.thread = thread;
  machine.closure = closure;
  machine.count = static_cast<int>(block.x * block.y * block.z);
  if (machine.fibres.size() < static_cast<size_t>(machine.count))
    machine.fibres.resize(machine.count);
  machine.shared.clear();
  machine.dynamic.bytes.reset(new unsigned char[shared_bytes]);
  machine.dynamic.size = shared_bytes;
  gridDim = grid;
  blockDim = block;
  std::vector<int> threads = make_order(machine.count);
  std::vector<int> blocks = make_order(int64_t{grid.x} * grid.y * grid.z);
  if (machine.order == 2) std::shuffle(blocks.begin(), blocks.end(), machine.random);
  for (int index : blocks) {
    const unsigned i = index;
    blockIdx = {i % grid.x, i / grid.x % grid.y, i / (grid.x * grid.y)};
    run_block(threads, block);
    if (machine.error != cudaSuccess) return;
  }
}

void block_barrier(Site site) {
  self().state = State::kAtBarrier;
  self().site = site;
  self().operation = "__syncthreads";
  leave(false);
}

int lane_index() { return machine.current & 31; }

void warp_operation(Site site,
                    const char* operation,
                    unsigned mask,
                    void* packet,
                    void (*resolve)(void* const packets[32], unsigned mask)) {
  Fibre& fibre = self();
  const int first = machine.current & ~31;
  if (!(mask >> lane_index() & 1)) {
    fail("%s at %s: lane %d is not in its own mask 0x%08x",
         operation,
         name(site).c_str(),
         lane_index(),
         mask);
  }
  fibre.state = State::kInWarp;
  fibre.site = site;
  fibre.operation = operation;
  fibre.mask = mask;
  fibre.packet = packet;
  void* packets[32] = {};
  bool all_here = true;
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const int index = first + lane;
    if (index >= machine.count || machine.fibres[index].state == State::kDone) {
      fail("%s at %s: the mask 0x%08x names lane %d, which %s",
           operation,
           name(site).c_str(),
           mask,
           lane,
           index >= machine.count ? "does not exist" : "has returned");
    }
    const Fibre& other = machine.fibres[index];
    if (other.state != State::kInWarp) {
      all_here = false;
      continue;
    }
    if (other.mask != mask || !same(other.site, site)) {
      fail("lanes of one warp meet in %s at %s with mask 0x%08x and %s at %s with mask 0x%08x",
           operation,
           name(site).c_str(),
           mask,
           other.operation,
           name(other.site).c_str(),
           other.mask);
    }
    packets[lane] = other.packet;
  }
  if (!all_here) return leave(false);
  resolve(packets, mask);
  if (std::strcmp(operation, "__syncwarp") == 0) ++machine.warp_intervals[first / 32];
  for (int lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) machine.fibres[first + lane].state = State::kReady;
  }
}

}  // namespace eft_fast::cuda_emulator

using eft_fast::cuda_emulator::machine;

cudaError_t cudaGetLastError() { return std::exchange(machine.error, cudaSuccess); }

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  const size_t limit = eft_fast::cuda_emulator::shared_limit();
  if (value < 0 || static_cast<size_t>(value) > limit) {
    eft_fast::cuda_emulator::set_error(cudaErrorInvalidValue,
                                       std::to_string(value) + " bytes of dynamic shared memory, " +
                                           std::to_string(limit >> 10) + " KB are the limit");
    return cudaErrorInvalidValue;
  }
  machine.allowed_shared[kernel] = value;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = static_cast<int>(eft_fast::cuda_emulator::shared_limit());
  return cudaSuccess;
}

void eft_cuda_emulator_schedule(int order, unsigned seed) {
  machine.order = order;
  machine.random.seed(seed);
}

const char* eft_cuda_emulator_message() { return machine.message.c_str(); }

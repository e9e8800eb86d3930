// Finds races in shared memory: two threads that touch the same word, one of them writing, with
// nothing between them that orders the two. Threads of different warps are ordered by a block
// barrier; lanes of one warp by that and by __syncwarp (shuffles and votes order no memory).
//
// Kernels that are compiled with -fsanitize=thread call these functions at every access. No
// sanitizer's library is there: threads here are fibres of one, and only shared memory is watched.
// Words are watched whole, so two threads must not share one.
#include <dlfcn.h>

#include "cuda_emulator_machine.h"

namespace eft_fast::cuda_emulator {
namespace {

// What was done to a word since its last barrier, and by whom.
void note(
    Word& word, bool writes, const char* what, size_t at, const SharedArray& array, void* code) {
  const int thread = machine.current, warp = thread / 32, lane = thread % 32;
  if (word.interval != machine.interval) {
    word = Word{};
    word.interval = machine.interval;
  }
  const uint32_t others = ~(1u << warp);
  const bool between_warps =
      (word.writers & others) != 0 || (writes && (word.readers & others) != 0);
  // Of the last warp that came here.
  if (word.warp != warp || word.warp_interval != machine.warp_intervals[warp]) {
    word.warp = static_cast<int16_t>(warp);
    word.warp_interval = machine.warp_intervals[warp];
    word.lane_readers = word.lane_writers = 0;
  }
  const uint32_t other_lanes = ~(1u << lane);
  const bool between_lanes =
      (word.lane_writers & other_lanes) != 0 || (writes && (word.lane_readers & other_lanes) != 0);
  if (between_warps || between_lanes) {
    Dl_info info{};
    dladdr(code, &info);
    fail(
        "race: thread %d %s byte %zu of %s, which %s touched before and no %s came between "
        "(%s+0x%zx)",
        thread,
        what,
        at,
        array.name.c_str(),
        between_warps ? "another warp" : "another lane",
        between_warps ? "__syncthreads" : "__syncwarp",
        info.dli_fname ? info.dli_fname : "?",
        static_cast<size_t>(static_cast<char*>(code) - static_cast<char*>(info.dli_fbase)));
  }
  (writes ? word.writers : word.readers) |= 1u << warp;
  (writes ? word.lane_writers : word.lane_readers) |= 1u << lane;
}

bool watch(SharedArray& array, const unsigned char* first, size_t bytes, bool writes, void* code) {
  const unsigned char* const begin = array.bytes.get();
  if (!begin || first < begin || first >= begin + array.size) return false;
  if (array.words.size() != (array.size + 3) / 4) array.words.assign((array.size + 3) / 4, Word{});
  const size_t from = first - begin, to = std::min(from + bytes, array.size);
  for (size_t word = from / 4; word * 4 < to; ++word) {
    note(array.words[word], writes, writes ? "writes" : "reads", word * 4, array, code);
  }
  return true;
}

}  // namespace

void note_access(const void* address, size_t bytes, bool writes, void* code) {
  // Launchers and the emulator itself run outside of a thread.
  if (machine.current < 0) return;
  const auto* first = static_cast<const unsigned char*>(address);
  if (watch(machine.dynamic, first, bytes, writes, code)) return;
  for (auto& [site, array] : machine.shared) {
    if (watch(array, first, bytes, writes, code)) return;
  }
}

}  // namespace eft_fast::cuda_emulator

#define EFT_CALLED(name) extern "C" __attribute__((visibility("default"))) void name
#define EFT_NOTE(address, bytes, writes) \
  eft_fast::cuda_emulator::note_access(address, bytes, writes, __builtin_return_address(0))
#define EFT_WATCH(bytes)                                                                       \
  EFT_CALLED(__tsan_read##bytes)(void* address) { EFT_NOTE(address, bytes, false); }           \
  EFT_CALLED(__tsan_write##bytes)(void* address) { EFT_NOTE(address, bytes, true); }           \
  EFT_CALLED(__tsan_unaligned_read##bytes)(void* address) { EFT_NOTE(address, bytes, false); } \
  EFT_CALLED(__tsan_unaligned_write##bytes)(void* address) { EFT_NOTE(address, bytes, true); }
EFT_WATCH(1)
EFT_WATCH(2)
EFT_WATCH(4)
EFT_WATCH(8)
EFT_WATCH(16)
EFT_CALLED(__tsan_read_range)(void* address, size_t bytes) { EFT_NOTE(address, bytes, false); }
EFT_CALLED(__tsan_write_range)(void* address, size_t bytes) { EFT_NOTE(address, bytes, true); }
EFT_CALLED(__tsan_init)() {}
EFT_CALLED(__tsan_func_entry)(void*) {}
EFT_CALLED(__tsan_func_exit)() {}
EFT_CALLED(__tsan_vptr_update)(void**, void*) {}
EFT_CALLED(__tsan_vptr_read)(void**) {}

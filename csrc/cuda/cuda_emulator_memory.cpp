// Shared memory and asynchronous copies of cuda_emulator.h.
#include <cstdlib>

#include "cuda_emulator_machine.h"

namespace eft_fast::cuda_emulator {
namespace {

unsigned char* refresh(SharedArray& array, void (*poison)(void*, size_t)) {
  if (std::exchange(array.fresh, false)) poison(array.bytes.get(), array.size);
  return array.bytes.get();
}

}  // namespace

size_t shared_limit() {
  static const char* const given = std::getenv("EFT_FAST_EMULATOR_SHARED");
  return given ? std::strtoul(given, nullptr, 10) : 227 << 10;
}

void* shared_array(Site site, size_t bytes, void (*poison)(void*, size_t)) {
  SharedArray& array = machine.shared[{site.file, site.line}];
  if (!array.bytes) {
    array.bytes.reset(new unsigned char[bytes]);
    array.size = bytes;
    array.fresh = true;
    array.name = "the array of " + std::string(site.file) + ":" + std::to_string(site.line);
    size_t total = 0;
    for (const auto& [key, other] : machine.shared) total += other.size;
    if (total > kStaticShared) fail("%zu bytes of static shared memory, 48 KB are allowed", total);
    if (total + machine.dynamic.size > shared_limit()) {
      fail("%zu bytes of static and %zu of dynamic shared memory, %zu KB are the limit",
           total,
           machine.dynamic.size,
           shared_limit() >> 10);
    }
  }
  return refresh(array, poison);
}

void* dynamic_shared_array(void (*poison)(void*, size_t)) {
  return refresh(machine.dynamic, poison);
}

void copy_async(void* shared, const void* global) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 || reinterpret_cast<uintptr_t>(global) % 16) {
    fail("cp_async_16: both addresses must be 16-byte aligned, got %p and %p", shared, global);
  }
  self().copies.back().push_back({shared, global});
  poison<float>(shared, 16);
  note_access(shared, 16, true, __builtin_return_address(0));
}

void copy_commit() { self().copies.emplace_back(); }

void copy_wait(int groups_left) {
  auto& copies = self().copies;
  // The last group is open: its copies stay in flight, as on a GPU.
  while (static_cast<int>(copies.size()) - 1 > groups_left) {
    for (const Copy& copy : copies.front()) {
      std::memcpy(copy.target, copy.source, 16);
      note_access(copy.target, 16, true, __builtin_return_address(0));
    }
    copies.erase(copies.begin());
  }
}

}  // namespace eft_fast::cuda_emulator

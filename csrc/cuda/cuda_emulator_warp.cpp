// The warp operations behind cuda_emulator.h that need no scheduler: votes and the tensor core.
#include "cuda_emulator.h"

namespace eft_fast::cuda_emulator {

unsigned ballot(Site site, const char* operation, unsigned mask, bool predicate) {
  unsigned packet = predicate;
  warp_operation(site, operation, mask, &packet, [](void* const packets[32], unsigned lanes) {
    unsigned votes = 0;
    for (int lane = 0; lane < 32; ++lane) {
      if (lanes >> lane & 1) votes |= *static_cast<unsigned*>(packets[lane]) << lane;
    }
    for (int lane = 0; lane < 32; ++lane) {
      if (lanes >> lane & 1) *static_cast<unsigned*>(packets[lane]) = votes;
    }
  });
  return packet;
}

namespace {
struct MmaPacket {
  float* d;
  const float* a;
  const float* b;
};

// The tensor core ignores the 13 low bits of its operands.
float cut_to_tf32(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits &= ~0x1FFFu;
  std::memcpy(&x, &bits, 4);
  return x;
}

void resolve_mma(void* const packets[32], unsigned) {
  float a[16][8], b[8][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto* packet = static_cast<const MmaPacket*>(packets[lane]);
    const int g = lane / 4, t = lane % 4;
    a[g][t] = cut_to_tf32(packet->a[0]);
    a[g + 8][t] = cut_to_tf32(packet->a[1]);
    a[g][t + 4] = cut_to_tf32(packet->a[2]);
    a[g + 8][t + 4] = cut_to_tf32(packet->a[3]);
    b[t][g] = cut_to_tf32(packet->b[0]);
    b[t + 4][g] = cut_to_tf32(packet->b[1]);
  }
  for (int lane = 0; lane < 32; ++lane) {
    float* d = static_cast<const MmaPacket*>(packets[lane])->d;
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      for (int k = 0; k < 8; ++k) d[i] += a[row][k] * b[k][column];
    }
  }
}
}  // namespace

void mma(Site site, float* d, const float* a, const float* b) {
  MmaPacket packet{d, a, b};
  warp_operation(site, "mma_tf32_16x8x8", 0xFFFFFFFFu, &packet, resolve_mma);
}

}  // namespace eft_fast::cuda_emulator

// What the operators ask of the device: words for error codes, and how much shared memory there is.
#include "launch.h"
#include "launchers.h"

const char* eft_cuda_error(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

int64_t eft_cuda_shared_limit() {
  int device = 0, bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) !=
          cudaSuccess) {
    cudaGetLastError();  // taken off, so that the next launch is not told of it
    return 48 << 10;     // what every device has
  }
  return bytes;
}

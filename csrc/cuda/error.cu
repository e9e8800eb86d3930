// Words for the error codes that the launchers return.
#include "launch.h"
#include "launchers.h"

const char* eft_cuda_error(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

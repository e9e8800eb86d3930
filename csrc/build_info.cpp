// Says how this library was built.
#include <string>

// cpu/dispatch.cpp
extern "C" void eft_fast_simd_names(const char** in_use, char* available, size_t size);

// JSON for ops/_load.py: version, whether CUDA is compiled in, architectures, CPU instruction sets.
extern "C" __attribute__((visibility("default"))) const char* eft_fast_build_info() {
  static thread_local std::string info;
  const char* in_use = nullptr;
  char available[64];
  eft_fast_simd_names(&in_use, available, sizeof(available));
  auto list = [](std::string text) {
    std::string out = "[";
    for (size_t at = 0; !text.empty() && at != std::string::npos;) {
      const size_t comma = text.find(',', at);
      out += (out.size() > 1 ? ",\"" : "\"") + text.substr(at, comma - at) + "\"";
      at = comma == std::string::npos ? comma : comma + 1;
    }
    return out + "]";
  };
#ifdef EFT_FAST_WITH_CUDA
  const char* has_cuda = "true";
#else
  const char* has_cuda = "false";
#endif
  info = std::string("{\"version\":\"") + EFT_FAST_VERSION + "\",\"cuda\":" + has_cuda +
         ",\"archs\":" + list(EFT_FAST_ARCHS) + ",\"simd\":\"" + in_use +
         "\",\"simd_available\":" + list(available) + "}";
  return info.c_str();
}

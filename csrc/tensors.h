// Tensors as pointers, and new ones, for every device.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <initializer_list>
#include <optional>

// torch 2.11 has it under the second name only.
#ifndef STABLE_TORCH_ERROR_CODE_CHECK
#define STABLE_TORCH_ERROR_CODE_CHECK TORCH_ERROR_CODE_CHECK
#endif

namespace eft_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

template <typename S>
const S* read(const Tensor& t) {
  return static_cast<const S*>(t.const_data_ptr());
}

template <typename S>
const S* read(const OptionalTensor& t) {
  return t.has_value() ? read<S>(*t) : nullptr;
}

template <typename S>
S* write(const Tensor& t) {
  return static_cast<S*>(t.mutable_data_ptr());
}

inline Tensor dense(const Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

// An uninitialised contiguous tensor of the type and device of another; the plain shim costs a
// quarter of a dispatched new_empty, which counts where a call takes microseconds.
inline Tensor empty_as(const Tensor& like, std::initializer_list<int64_t> shape) {
  int64_t strides[4], step = 1, d = static_cast<int64_t>(shape.size());
  for (const int64_t* size = shape.end(); size != shape.begin();) {
    strides[--d] = step;
    step *= *--size;
  }
  int32_t type, device_type, device_index;
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()),
                                                         shape.begin(),
                                                         strides,
                                                         type,
                                                         device_type,
                                                         device_index,
                                                         &handle));
  return Tensor(handle);
}

// f(float{}) or f(double{}).
template <typename F>
void for_type(const Tensor& like, F f) {
  if (like.scalar_type() == ScalarType::Float) {
    f(float{});
  } else {
    f(double{});
  }
}

}  // namespace eft_fast

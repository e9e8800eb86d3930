// Data of tensors as pointers, for every device.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

namespace eft_fast {

using OptionalTensor = std::optional<torch::stable::Tensor>;

template <typename S>
const S* read(const torch::stable::Tensor& t) {
  return static_cast<const S*>(t.const_data_ptr());
}

template <typename S>
const S* read(const OptionalTensor& t) {
  return t.has_value() ? read<S>(*t) : nullptr;
}

template <typename S>
S* write(const torch::stable::Tensor& t) {
  return static_cast<S*>(t.mutable_data_ptr());
}

}  // namespace eft_fast

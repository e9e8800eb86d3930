// Checks of operator inputs: the same call, and so the same words, for every device.
//
// The Python calls of eft_fast/ops say these things with the right kind of exception; these guard
// direct calls.
#pragma once

#include <initializer_list>
#include <stdexcept>
#include <string>

#include "math/transform.h"
#include "tensors.h"

namespace eft_fast {

[[noreturn]] inline void refuse(const std::string& sentence) { throw std::runtime_error(sentence); }

inline std::string shape_text(const Tensor& t) {
  std::string text = "[";
  for (int64_t d = 0; d < t.dim(); ++d) text += (d ? ", " : "") + std::to_string(t.size(d));
  return text + "]";
}

// A size of -1 allows any.
inline void check_shape(const char* op,
                        const char* name,
                        const Tensor& t,
                        std::initializer_list<int64_t> shape) {
  bool fits = t.dim() == static_cast<int64_t>(shape.size());
  int64_t d = 0;
  for (int64_t size : shape) {
    fits = fits && (size < 0 || t.size(d) == size);
    ++d;
  }
  if (fits) return;
  std::string wanted;
  for (int64_t size : shape)
    wanted += (wanted.empty() ? "" : ", ") + (size < 0 ? "any" : std::to_string(size));
  refuse(std::string(op) + ": " + name + " must be [" + wanted + "], got " + shape_text(t));
}

// Floating tensors share one type, float32 or float64, and all tensors one device.
struct Alike {
  const char* op;
  const char* who;  // what the tensor is called that the others must resemble
  ScalarType type;
  bool is_cuda;
  int32_t device_index;

  Alike(const char* name, const Tensor& first, const char* who = "betas")
      : op(name),
        who(who),
        type(first.scalar_type()),
        is_cuda(first.is_cuda()),
        device_index(is_cuda ? first.get_device_index() : 0) {
    if (type != ScalarType::Float && type != ScalarType::Double)
      refuse(std::string(op) + ": " + who +
             " must be float32 or float64; half precision is not supported");
  }

  void floating(const char* name, const Tensor& t) const {
    if (t.scalar_type() != type)
      refuse(std::string(op) + ": " + name + " must have the type of " + who);
    device(name, t);
  }

  void index(const char* name, const Tensor& t) const {
    if (t.scalar_type() != ScalarType::Int)
      refuse(std::string(op) + ": " + name + " must be int32");
    device(name, t);
  }

  void device(const char* name, const Tensor& t) const {
    if (t.is_cuda() != is_cuda || (is_cuda && t.get_device_index() != device_index))
      refuse(std::string(op) + ": " + name + " must be on the device of " + who);
  }
};

// Plan tensors come contiguous from plans.py; a plan that is not is refused, never copied at every
// call.
inline void check_plan(const Alike& alike,
                       const char* name,
                       const Tensor& t,
                       std::initializer_list<int64_t> shape,
                       bool is_index = false) {
  check_shape(alike.op, name, t, shape);
  if (is_index) {
    alike.index(name, t);
  } else {
    alike.floating(name, t);
  }
  if (!t.is_contiguous()) refuse(std::string(alike.op) + ": " + name + " must be contiguous");
}

}  // namespace eft_fast

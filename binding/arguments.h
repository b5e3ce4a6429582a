// Reading arguments. src/validate.ts has checked them and made the messages a user sees; what is checked again here is
// only what native code would read or write out of bounds.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include "binding/napi_setup.h"
#include "engine/evaluation.h"

namespace marginfc::binding {

// Memory of a typed array, borrowed as long as the array is kept alive.
template <typename T>
struct Span {
  T* data = nullptr;
  int64_t size = 0;
};

Span<float> float_array(const Napi::Value& value, const char* name);
Span<double> double_array(const Napi::Value& value, const char* name);
Span<int32_t> int_array(const Napi::Value& value, const char* name);

double number(const Napi::Object& object, const char* name);
bool boolean(const Napi::Object& object, const char* name);
std::string text(const Napi::Object& object, const char* name);
bool present(const Napi::Value& value);

// Rows of float32 (Float32Array), or of 16 bits (Uint16Array) with `type` 'bfloat16' or 'float16'; or of either in a GPU's
// memory ({ devicePtr, length }).
struct Rows {
  const void* data = nullptr;
  int64_t size = 0;
  Precision storage = Precision::float32;
  Place place = Place::host;
};
Rows row_array(const Napi::Value& value, const Napi::Value& type, const char* name);
Precision precision(const Napi::Value& value, const char* name);

// Where float32 results go: a Float32Array, or a GPU's memory.
struct Floats {
  float* data = nullptr;
  int64_t size = 0;
  Place place = Place::host;
};
Floats result_array(const Napi::Value& value, const char* name);

void require_size(Napi::Env env, int64_t size, int64_t expected, const char* name);

// Rows of each of so many classes, as many as native code can count; 1 where `value` is absent.
int32_t read_sub_centers(const Napi::Value& value, int64_t classes);

// engine/evaluation.h's Margin; arrays stay borrowed. `rows` and `classes` are the lengths its arrays must have.
Margin read_margin(const Napi::Value& value, int64_t rows, int64_t classes);
// Whether that is a NativeBinary, and what it says.
bool is_binary(const Napi::Value& value);
BinaryReduction read_binary(const Napi::Value& value);
// What src/native.ts calls a NativeTransform; its thresholds are borrowed.
NegativesTransform read_transform(const Napi::Value& value, int64_t rows);
Optimizer read_optimizer(const Napi::Value& value);
// How an update clips the weights' gradient: what engines are told, once the whole gradient has been measured where its norm is
// limited.
struct ClipChoice {
  Clip clip;
  double longest = std::numeric_limits<double>::infinity();  // of the whole gradient
  bool measured = false;

  bool wants_measure() const { return std::isfinite(longest) && !measured; }
  void take(double square) { clip.scale = Clip{1, longest}.factor(square); }
};
// { perClass }, { global, square? }, or undefined for none.
ClipChoice read_clip(const Napi::Value& value);

}  // namespace marginfc::binding

#include "binding/arguments.h"

namespace marginfc::binding {
namespace {

[[noreturn]] void fail(Napi::Env env, Code code, const std::string& message) {
  throw make_error(env, Status::failure(code, message));
}

template <typename T>
Span<T> typed_array(const Napi::Value& value, napi_typedarray_type type, const char* type_name, const char* name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type)
    fail(value.Env(), Code::type, std::string(name) + " must be a " + type_name);
  napi_typedarray_type got;
  size_t length = 0;
  void* data = nullptr;
  if (napi_get_typedarray_info(value.Env(), value, &got, &length, &data, nullptr, nullptr) != napi_ok)
    fail(value.Env(), Code::type, std::string(name) + " must be a " + type_name);
  return {static_cast<T*>(data), static_cast<int64_t>(length)};
}

// { devicePtr: bigint, length: number }; false for anything else.
bool device_array(const Napi::Value& value, const char* name, void** data, int64_t* size) {
  if (!value.IsObject() || value.IsTypedArray()) return false;
  const auto object = value.As<Napi::Object>();
  const Napi::Value pointer = object.Get("devicePtr");
  if (!pointer.IsBigInt()) return false;
  bool lossless = false;
  const uint64_t address = pointer.As<Napi::BigInt>().Uint64Value(&lossless);
  const double length = number(object, "length");
  if (!lossless || address == 0 || !(length >= 0 && length <= 9007199254740991.0))
    fail(value.Env(), Code::type, std::string(name) + " must have an address and a length");
  *data = reinterpret_cast<void*>(address);
  *size = static_cast<int64_t>(length);
  return true;
}

}  // namespace

Span<float> float_array(const Napi::Value& value, const char* name) {
  return typed_array<float>(value, napi_float32_array, "Float32Array", name);
}

Span<double> double_array(const Napi::Value& value, const char* name) {
  return typed_array<double>(value, napi_float64_array, "Float64Array", name);
}

Span<int32_t> int_array(const Napi::Value& value, const char* name) {
  return typed_array<int32_t>(value, napi_int32_array, "Int32Array", name);
}

double number(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsNumber()) fail(object.Env(), Code::type, std::string(name) + " must be a number");
  return value.As<Napi::Number>().DoubleValue();
}

bool boolean(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsBoolean()) fail(object.Env(), Code::type, std::string(name) + " must be a boolean");
  return value.As<Napi::Boolean>().Value();
}

std::string text(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsString()) fail(object.Env(), Code::type, std::string(name) + " must be a string");
  return value.As<Napi::String>().Utf8Value();
}

bool present(const Napi::Value& value) { return !value.IsUndefined() && !value.IsNull(); }

Precision precision(const Napi::Value& value, const char* name) {
  const std::string text = value.IsString() ? value.As<Napi::String>().Utf8Value() : "";
  if (text == "float32") return Precision::float32;
  if (text == "bfloat16") return Precision::bfloat16;
  if (text == "float16") return Precision::float16;
  fail(value.Env(), Code::type, std::string(name) + " must be float32, bfloat16 or float16");
}

Rows row_array(const Napi::Value& value, const Napi::Value& type, const char* name) {
  const Precision storage = precision(type, name);
  void* data;
  int64_t size;
  if (device_array(value, name, &data, &size)) return {data, size, storage, Place::device};
  if (storage == Precision::float32) {
    const Span<float> rows = float_array(value, name);
    return {rows.data, rows.size, storage};
  }
  const Span<uint16_t> rows = typed_array<uint16_t>(value, napi_uint16_array, "Uint16Array", name);
  return {rows.data, rows.size, storage};
}

Floats result_array(const Napi::Value& value, const char* name) {
  void* data;
  int64_t size;
  if (device_array(value, name, &data, &size)) return {static_cast<float*>(data), size, Place::device};
  const Span<float> array = float_array(value, name);
  return {array.data, array.size, Place::host};
}

void require_size(Napi::Env env, int64_t size, int64_t expected, const char* name) {
  if (size != expected)
    fail(env, Code::shape,
         std::string(name) + " must have length " + std::to_string(expected) + ", received " + std::to_string(size));
}

int32_t read_sub_centers(const Napi::Value& value, int64_t classes) {
  if (!present(value)) return 1;
  const int64_t sub_centers = value.IsNumber() ? value.As<Napi::Number>().Int64Value() : 0;
  if (sub_centers < 1 || sub_centers > INT32_MAX / classes)
    fail(value.Env(), Code::shape, "classes * subCenters must be in [1, 2^31 - 1]");
  return static_cast<int32_t>(sub_centers);
}

Margin read_margin(const Napi::Value& value, int64_t rows, int64_t classes) {
  const Napi::Env env = value.Env();
  if (!value.IsObject()) fail(env, Code::type, "margin must be an object");
  const auto object = value.As<Napi::Object>();
  const std::string kind = text(object, "kind");
  Margin margin;
  if (kind == "custom") {
    margin.kind = MarginKind::custom;
    const Span<double> target = double_array(object.Get("target"), "margin.target");
    const Span<double> derivative = double_array(object.Get("dTarget"), "margin.dTarget");
    require_size(env, target.size, rows, "margin.target");
    require_size(env, derivative.size, rows, "margin.dTarget");
    margin.target = target.data;
    margin.target_derivative = derivative.data;
    if (present(object.Get("dFeatureNorm"))) {
      const Span<double> norm = double_array(object.Get("dFeatureNorm"), "margin.dFeatureNorm");
      require_size(env, norm.size, rows, "margin.dFeatureNorm");
      margin.norm_derivative = norm.data;
    }
    return margin;
  }
  uint32_t expected = 1;
  if (kind == "arcface") {
    margin.kind = MarginKind::arcface;
  } else if (kind == "cosface") {
    margin.kind = MarginKind::cosface;
  } else if (kind == "x2softmax") {
    margin.kind = MarginKind::x2softmax;
    expected = 3;
  } else if (kind == "combined") {
    margin.kind = MarginKind::combined;
    expected = 3;
  } else if (kind == "softmax") {
    margin.kind = MarginKind::softmax;
    expected = 0;
  } else {
    fail(env, Code::type, "margin.kind is unknown");
  }
  const Napi::Value list = object.Get("parameters");
  if (!list.IsArray()) fail(env, Code::type, "margin.parameters must be an array");
  const auto parameters = list.As<Napi::Array>();
  require_size(env, parameters.Length(), expected, "margin.parameters");
  for (uint32_t p = 0; p < expected; p++) {
    const Napi::Value entry = parameters.Get(p);
    Parameter& parameter = margin.parameters[p];
    if (entry.IsNumber()) {
      parameter.value = entry.As<Napi::Number>().DoubleValue();
      continue;
    }
    if (!entry.IsObject()) fail(env, Code::type, "margin.parameters must hold numbers or arrays");
    const auto source = entry.As<Napi::Object>();
    if (present(source.Get("perRow"))) {
      const Span<float> values = float_array(source.Get("perRow"), "perRow");
      require_size(env, values.size, rows, "perRow");
      parameter.per_row = values.data;
    } else {
      const Span<float> values = float_array(source.Get("perClass"), "perClass");
      require_size(env, values.size, classes, "perClass");
      parameter.per_class = values.data;
    }
  }
  return margin;
}

bool is_binary(const Napi::Value& value) { return value.IsObject() && value.As<Napi::Object>().Has("power"); }

BinaryReduction read_binary(const Napi::Value& value) {
  const auto object = value.As<Napi::Object>();
  BinaryReduction binary;
  binary.bias = number(object, "bias");
  binary.positive = number(object, "positive");
  binary.negative = number(object, "negative");
  binary.shift = number(object, "shift");
  const double power = number(object, "power");
  if (!(power >= 1 && power <= INT32_MAX)) fail(value.Env(), Code::margin, "power must be at least 1");
  binary.power = static_cast<int32_t>(power);
  return binary;
}

NegativesTransform read_transform(const Napi::Value& value, int64_t rows) {
  const Napi::Env env = value.Env();
  const auto object_in = [&](const Napi::Value& entry, const char* name) {
    if (!entry.IsObject()) fail(env, Code::type, std::string(name) + " must be an object");
    return entry.As<Napi::Object>();
  };
  const Napi::Object object = object_in(value, "transform");
  const auto numbers = [&](const Napi::Object& piece, const char* name, double* to, uint32_t count) {
    const Napi::Object list = object_in(piece.Get(name), name);
    for (uint32_t i = 0; i < count; i++) {
      const Napi::Value entry = list.Get(i);
      if (!entry.IsNumber()) fail(env, Code::type, std::string(name) + " must hold numbers");
      to[i] = entry.As<Napi::Number>().DoubleValue();
    }
  };
  const auto quadratic = [&](const char* name, Quadratic* to) {
    const Napi::Object piece = object_in(object.Get(name), name);
    numbers(piece, "value", to->value, 3);
    numbers(piece, "slope", to->slope, 2);
  };
  NegativesTransform transform;
  quadratic("below", &transform.below);
  quadratic("above", &transform.above);
  const Span<double> threshold = double_array(object.Get("threshold"), "threshold");
  require_size(env, threshold.size, rows, "threshold");
  transform.threshold = threshold.data;
  return transform;
}

Optimizer read_optimizer(const Napi::Value& value) {
  if (!value.IsObject()) fail(value.Env(), Code::type, "optimizer must be an object");
  const auto object = value.As<Napi::Object>();
  Optimizer optimizer;
  optimizer.weight_decay = number(object, "weightDecay");
  optimizer.storage = precision(object.Get("storage"), "storage");
  optimizer.seed = static_cast<uint64_t>(number(object, "seed"));
  if (text(object, "kind") == "adamw") {
    optimizer.kind = Optimizer::Kind::adamw;
    optimizer.beta1 = number(object, "beta1");
    optimizer.beta2 = number(object, "beta2");
    optimizer.epsilon = number(object, "epsilon");
  } else {
    optimizer.momentum = number(object, "momentum");
    optimizer.nesterov = boolean(object, "nesterov");
  }
  return optimizer;
}

ClipChoice read_clip(const Napi::Value& value) {
  ClipChoice choice;
  if (!present(value)) return choice;
  if (!value.IsObject()) fail(value.Env(), Code::type, "clip must be an object");
  const auto object = value.As<Napi::Object>();
  if (present(object.Get("perClass"))) {
    choice.clip.longest = number(object, "perClass");
    return choice;
  }
  choice.longest = number(object, "global");
  choice.measured = present(object.Get("square"));
  if (choice.measured) choice.take(number(object, "square"));
  return choice;
}

}  // namespace marginfc::binding

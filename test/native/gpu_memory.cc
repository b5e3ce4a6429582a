// For tests of device arrays: what a trainer with GPU memory of its own would bring. Through the driver that the package
// itself uses, in CUDA's primary contexts.
#include <dlfcn.h>
#include <napi.h>

#include <cstdlib>
#include <map>
#include <string>

namespace {

void* entry(const char* symbol) {
  static void* const library = [] {
    const char* path = std::getenv("MARGINFC_LIBCUDA");
    return dlopen(path && *path ? path : "libcuda.so.1", RTLD_NOW);
  }();
  return library ? dlsym(library, symbol) : nullptr;
}

template <class... Arguments>
void call(const Napi::Env& env, const char* symbol, Arguments... arguments) {
  auto* function = reinterpret_cast<int (*)(Arguments...)>(entry(symbol));
  const int code = function ? function(arguments...) : -1;
  if (code != 0) throw Napi::Error::New(env, std::string(symbol) + " returned " + std::to_string(code));
}

// Makes the primary context of a GPU current for a scope.
class Current {
 public:
  Current(const Napi::Env& env, int index) {
    static std::map<int, void*> contexts;
    if (!contexts.count(index)) {
      int device;
      call(env, "cuInit", 0u);
      call(env, "cuDeviceGet", &device, index);
      call(env, "cuDevicePrimaryCtxRetain", &contexts[index], device);
    }
    call(env, "cuCtxPushCurrent_v2", contexts[index]);
  }
  ~Current() {
    void* context;
    reinterpret_cast<int (*)(void**)>(entry("cuCtxPopCurrent_v2"))(&context);
  }
};

uint64_t address(const Napi::Value& value) {
  bool lossless;
  return value.As<Napi::BigInt>().Uint64Value(&lossless);
}

// allocate(gpu, bytes): bigint
Napi::Value allocate(const Napi::CallbackInfo& info) {
  const Current current(info.Env(), info[0].As<Napi::Number>().Int32Value());
  uint64_t pointer;
  call(info.Env(), "cuMemAlloc_v2", &pointer, static_cast<size_t>(info[1].As<Napi::Number>().Int64Value()));
  return Napi::BigInt::New(info.Env(), pointer);
}

// write(gpu, pointer, values: TypedArray)
void write(const Napi::CallbackInfo& info) {
  const Current current(info.Env(), info[0].As<Napi::Number>().Int32Value());
  const auto values = info[2].As<Napi::TypedArray>();
  const char* data = static_cast<const char*>(values.ArrayBuffer().Data()) + values.ByteOffset();
  call(info.Env(), "cuMemcpyHtoD_v2", address(info[1]), static_cast<const void*>(data), values.ByteLength());
}

// read(gpu, pointer, bytes): ArrayBuffer
Napi::Value read(const Napi::CallbackInfo& info) {
  const Current current(info.Env(), info[0].As<Napi::Number>().Int32Value());
  auto buffer = Napi::ArrayBuffer::New(info.Env(), info[2].As<Napi::Number>().Int64Value());
  call(info.Env(), "cuMemcpyDtoH_v2", buffer.Data(), address(info[1]), buffer.ByteLength());
  return buffer;
}

// free(gpu, pointer)
void free_memory(const Napi::CallbackInfo& info) {
  const Current current(info.Env(), info[0].As<Napi::Number>().Int32Value());
  call(info.Env(), "cuMemFree_v2", address(info[1]));
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("allocate", Napi::Function::New<allocate>(env));
  exports.Set("write", Napi::Function::New<write>(env));
  exports.Set("read", Napi::Function::New<read>(env));
  exports.Set("free", Napi::Function::New<free_memory>(env));
  return exports;
}

}  // namespace

NODE_API_MODULE(gpu_memory, init)

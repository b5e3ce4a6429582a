// The software CUDA driver of this process, through the entry points that any program uses.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gpusim::nccl {

using DevicePointer = uint64_t;
struct Context;
struct Stream;
struct Event;

struct Driver {
  int (*current_device)(int* device);
  int (*retain_context)(Context** context, int device);
  int (*release_context)(int device);
  int (*push_context)(Context* context);
  int (*pop_context)(Context** context);
  int (*pointer_attribute)(void* value, int attribute, DevicePointer pointer);
  int (*host_allocate)(void** memory, size_t bytes, unsigned flags);
  int (*copy_to_host)(void* to, DevicePointer from, size_t bytes, Stream* stream);
  int (*copy_to_device)(DevicePointer to, const void* from, size_t bytes, Stream* stream);
  int (*event_create)(Event** event, unsigned flags);
  int (*event_destroy)(Event* event);
  int (*event_record)(Event* event, Stream* stream);
  int (*event_query)(Event* event);
  int (*stream_wait_value)(Stream* stream, DevicePointer address, uint32_t value, unsigned flags);
};

/// Null where the process has no driver, or one without these.
const Driver* driver();

/// A context that is current as long as this lives.
class Current {
 public:
  explicit Current(Context* context) : pushed_(driver()->push_context(context) == 0) {}
  ~Current() {
    Context* popped = nullptr;
    if (pushed_) driver()->pop_context(&popped);
  }
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  const bool pushed_;
};

/// Pinned memory for copies, taken and put back, never freed: freeing waits for all streams of the process.
void* take_pinned(size_t bytes);
void put_pinned(void* memory, size_t bytes);

}  // namespace gpusim::nccl

// Allocation and copies. A copy takes effect when its stream is drained; what it reads from pageable host memory it has read
// before the call returns, as on the real driver.
#include <cstdlib>
#include <cstring>

#include "driver/state.h"

using namespace gpusim;

namespace {

GlobalMemory& memory() { return GlobalMemory::get(); }

/// One end of a copy: device memory by its allocation, or host memory as it is.
struct End {
  uint8_t* bytes = nullptr;
  Allocation* allocation = nullptr;  // null for pageable host memory
  uint64_t offset = 0;
};

Result find_end(uint64_t address, size_t bytes, bool must_be_device, End* end) {
  Allocation* allocation = memory().find(address);
  if (allocation == nullptr) {
    if (must_be_device || address == 0) return Result::invalid_value;
    end->bytes = reinterpret_cast<uint8_t*>(address);
    return Result::success;
  }
  if (!allocation->contains(address, bytes)) return Result::invalid_value;
  end->allocation = allocation;
  end->offset = address - allocation->base;
  end->bytes = allocation->data + end->offset;
  return Result::success;
}

void copy_bytes(uint64_t to, uint64_t from, size_t bytes) {
  End target, source;
  // Freed meanwhile: freeing drains, so this cannot happen; checked all the same.
  if (find_end(to, bytes, false, &target) != Result::success ||
      find_end(from, bytes, false, &source) != Result::success)
    return;
  std::memmove(target.bytes, source.bytes, bytes);
  if (target.allocation == nullptr || target.allocation->written == nullptr) return;
  // What nobody wrote stays unwritten when it is copied.
  uint8_t* flags = target.allocation->written + target.offset;
  if (source.allocation != nullptr && source.allocation->written != nullptr)
    std::memmove(flags, source.allocation->written + source.offset, bytes);
  else
    std::memset(flags, 1, bytes);
}

Result copy(Driver& driver, Stream* stream, uint64_t to, uint64_t from, size_t bytes, bool to_device, bool from_device,
            bool waits) {
  if (bytes == 0) return Result::success;
  stream = driver.resolve(stream);
  if (stream == nullptr) return Result::invalid_handle;
  End target, source;
  Result result = find_end(to, bytes, to_device, &target);
  if (result == Result::success) result = find_end(from, bytes, from_device, &source);
  if (result != Result::success) return result;
  if (stream->capture && waits) {
    stream->capture->invalidated = true;
    return Result::stream_capture_unsupported;
  }
  const bool pageable_source = source.allocation == nullptr;
  const bool pageable_target = target.allocation == nullptr;
  std::function<void()> work;
  if (pageable_source && !waits && !stream->capture) {
    // Pageable memory is staged before the call returns.
    auto staged = std::make_shared<std::vector<uint8_t>>(source.bytes, source.bytes + bytes);
    work = [=] { copy_bytes(to, reinterpret_cast<uint64_t>(staged->data()), bytes); };
  } else {
    work = [=] { copy_bytes(to, from, bytes); };
  }
  const bool captured = stream->capture != nullptr;
  result = driver.enqueue(stream, 1, std::move(work));
  // A copy to pageable memory returns when it is complete.
  if (result == Result::success && !captured && (waits || pageable_target)) driver.drain(stream, stream->issued);
  return result;
}

template <class T>
Result fill(Driver& driver, Stream* stream, uint64_t to, T value, size_t count, bool waits) {
  if (count == 0) return Result::success;
  stream = driver.resolve(stream);
  if (stream == nullptr) return Result::invalid_handle;
  const size_t bytes = count * sizeof(T);
  End target;
  const Result found = find_end(to, bytes, true, &target);
  if (found != Result::success || to % sizeof(T) != 0) return Result::invalid_value;
  const bool captured = stream->capture != nullptr;
  const Result result = driver.enqueue(stream, 2, [=] {
    End end;
    if (find_end(to, bytes, true, &end) != Result::success) return;
    for (size_t i = 0; i < count; i++) std::memcpy(end.bytes + i * sizeof(T), &value, sizeof(T));
    end.allocation->mark_written(to, bytes);
  });
  if (result == Result::success && waits && !captured) driver.drain(stream, stream->issued);
  return result;
}

uint64_t host(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

}  // namespace

GPUSIM_API int cuMemAlloc_v2(DevicePointer* pointer, size_t bytes) {
  return call(true, [&](Driver&) {
    if (pointer == nullptr || bytes == 0) return Result::invalid_value;
    const Device& device = *current_context()->device;
    const Allocation* allocation = memory().allocate(device.ordinal, bytes, device.memory);
    if (allocation == nullptr) return Result::out_of_memory;
    *pointer = allocation->base;
    return Result::success;
  });
}

GPUSIM_API int cuMemFree_v2(DevicePointer pointer) {
  return call(true, [&](Driver& driver) {
    if (pointer == 0) return Result::success;
    const Allocation* allocation = memory().find(pointer);
    if (allocation == nullptr || allocation->base != pointer || allocation->kind != Allocation::Kind::device)
      return Result::invalid_value;
    // Freeing waits for everything that may still use the memory.
    driver.drain_device(driver.devices[static_cast<size_t>(allocation->device)].get());
    memory().release(pointer);
    return Result::success;
  });
}

// Ordered by a stream, but without a pool: allocation is at once, freeing drains the stream.
GPUSIM_API int cuMemAllocAsync(DevicePointer* pointer, size_t bytes, Stream*) { return cuMemAlloc_v2(pointer, bytes); }
GPUSIM_API int cuMemFreeAsync(DevicePointer pointer, Stream*) { return cuMemFree_v2(pointer); }

GPUSIM_API int cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
  return call(true, [&](Driver&) {
    if (free_bytes == nullptr || total == nullptr) return Result::invalid_value;
    const Device& device = *current_context()->device;
    *total = device.memory;
    *free_bytes = device.memory - memory().used(device.ordinal);
    return Result::success;
  });
}

GPUSIM_API int cuMemGetAddressRange_v2(DevicePointer* base, size_t* bytes, DevicePointer pointer) {
  return call(true, [&](Driver&) {
    const Allocation* allocation = memory().find(pointer);
    if (allocation == nullptr) return Result::not_found;
    if (base != nullptr) *base = allocation->base;
    if (bytes != nullptr) *bytes = allocation->bytes;
    return Result::success;
  });
}

GPUSIM_API int cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
  return call(true, [&](Driver& driver) {
    if (pointer == nullptr || bytes == 0) return Result::invalid_value;
    void* block = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (block == nullptr) return Result::out_of_memory;
    memory().adopt_host(block, bytes);
    driver.pinned[block] = bytes;
    *pointer = block;
    return Result::success;
  });
}

GPUSIM_API int cuMemAllocHost_v2(void** pointer, size_t bytes) { return cuMemHostAlloc(pointer, bytes, 0); }

GPUSIM_API int cuMemFreeHost(void* pointer) {
  return call(true, [&](Driver& driver) {
    if (driver.pinned.erase(pointer) == 0) return Result::invalid_value;
    for (auto& device : driver.devices) driver.drain_device(device.get());
    memory().release(host(pointer));
    std::free(pointer);
    return Result::success;
  });
}

GPUSIM_API int cuMemHostRegister_v2(void* pointer, size_t bytes, unsigned) {
  return call(true, [&](Driver&) {
    if (pointer == nullptr || bytes == 0) return Result::invalid_value;
    if (memory().find(host(pointer)) != nullptr) return Result::host_memory_already_registered;
    return memory().adopt_host(pointer, bytes) != nullptr ? Result::success : Result::host_memory_already_registered;
  });
}

GPUSIM_API int cuMemHostUnregister(void* pointer) {
  return call(true, [&](Driver& driver) {
    if (driver.pinned.count(pointer) != 0) return Result::invalid_value;
    const Allocation* allocation = memory().find(host(pointer));
    if (allocation == nullptr || allocation->base != host(pointer)) return Result::host_memory_not_registered;
    for (auto& device : driver.devices) driver.drain_device(device.get());
    memory().release(host(pointer));
    return Result::success;
  });
}

GPUSIM_API int cuMemHostGetDevicePointer_v2(DevicePointer* pointer, void* of, unsigned) {
  return call(true, [&](Driver&) {
    if (pointer == nullptr || memory().find(host(of)) == nullptr) return Result::invalid_value;
    *pointer = host(of);
    return Result::success;
  });
}

GPUSIM_API int cuMemHostGetFlags(unsigned* flags, void* pointer) {
  return call(true, [&](Driver&) {
    if (flags == nullptr || memory().find(host(pointer)) == nullptr) return Result::invalid_value;
    *flags = 0;
    return Result::success;
  });
}

GPUSIM_API int cuPointerGetAttribute(void* data, int attribute, DevicePointer pointer) {
  return call(false, [&](Driver& driver) {
    const Allocation* allocation = memory().find(pointer);
    if (data == nullptr || allocation == nullptr) return Result::invalid_value;
    const bool device = allocation->device >= 0;
    switch (attribute) {
      case 1:  // context
        *static_cast<Context**>(data) = device ? driver.devices[static_cast<size_t>(allocation->device)]->primary
                                               : nullptr;
        return Result::success;
      case 2: *static_cast<unsigned*>(data) = device ? 2 : 1; return Result::success;  // memory type
      case 3: *static_cast<uint64_t*>(data) = pointer; return Result::success;
      case 4:
        if (device) return Result::invalid_value;
        *static_cast<uint64_t*>(data) = pointer;
        return Result::success;
      case 8: *static_cast<int*>(data) = 0; return Result::success;  // managed
      case 9: *static_cast<int*>(data) = device ? allocation->device : 0; return Result::success;
      case 11: *static_cast<uint64_t*>(data) = allocation->base; return Result::success;
      case 12: *static_cast<size_t*>(data) = allocation->bytes; return Result::success;
      default: return Result::not_supported;
    }
  });
}

// ---- copies

GPUSIM_API int cuMemcpyHtoD_v2(DevicePointer to, const void* from, size_t bytes) {
  return call(true, [&](Driver& d) { return copy(d, nullptr, to, host(from), bytes, true, false, true); });
}
GPUSIM_API int cuMemcpyDtoH_v2(void* to, DevicePointer from, size_t bytes) {
  return call(true, [&](Driver& d) { return copy(d, nullptr, host(to), from, bytes, false, true, true); });
}
GPUSIM_API int cuMemcpyDtoD_v2(DevicePointer to, DevicePointer from, size_t bytes) {
  return call(true, [&](Driver& d) { return copy(d, nullptr, to, from, bytes, true, true, false); });
}
GPUSIM_API int cuMemcpy(DevicePointer to, DevicePointer from, size_t bytes) {
  return call(true, [&](Driver& d) { return copy(d, nullptr, to, from, bytes, false, false, true); });
}
GPUSIM_API int cuMemcpyHtoDAsync_v2(DevicePointer to, const void* from, size_t bytes, Stream* stream) {
  return call(true, [&](Driver& d) { return copy(d, stream, to, host(from), bytes, true, false, false); });
}
GPUSIM_API int cuMemcpyDtoHAsync_v2(void* to, DevicePointer from, size_t bytes, Stream* stream) {
  return call(true, [&](Driver& d) { return copy(d, stream, host(to), from, bytes, false, true, false); });
}
GPUSIM_API int cuMemcpyDtoDAsync_v2(DevicePointer to, DevicePointer from, size_t bytes, Stream* stream) {
  return call(true, [&](Driver& d) { return copy(d, stream, to, from, bytes, true, true, false); });
}
GPUSIM_API int cuMemcpyAsync(DevicePointer to, DevicePointer from, size_t bytes, Stream* stream) {
  return call(true, [&](Driver& d) { return copy(d, stream, to, from, bytes, false, false, false); });
}
GPUSIM_API int cuMemcpyPeer(DevicePointer to, Context*, DevicePointer from, Context*, size_t bytes) {
  return call(true, [&](Driver& d) { return copy(d, nullptr, to, from, bytes, true, true, true); });
}
GPUSIM_API int cuMemcpyPeerAsync(DevicePointer to, Context*, DevicePointer from, Context*, size_t bytes,
                                 Stream* stream) {
  return call(true, [&](Driver& d) { return copy(d, stream, to, from, bytes, true, true, false); });
}

GPUSIM_API int cuMemsetD8_v2(DevicePointer to, unsigned char value, size_t count) {
  return call(true, [&](Driver& d) { return fill<uint8_t>(d, nullptr, to, value, count, false); });
}
GPUSIM_API int cuMemsetD16_v2(DevicePointer to, unsigned short value, size_t count) {
  return call(true, [&](Driver& d) { return fill<uint16_t>(d, nullptr, to, value, count, false); });
}
GPUSIM_API int cuMemsetD32_v2(DevicePointer to, unsigned value, size_t count) {
  return call(true, [&](Driver& d) { return fill<uint32_t>(d, nullptr, to, value, count, false); });
}
GPUSIM_API int cuMemsetD8Async(DevicePointer to, unsigned char value, size_t count, Stream* stream) {
  return call(true, [&](Driver& d) { return fill<uint8_t>(d, stream, to, value, count, false); });
}
GPUSIM_API int cuMemsetD16Async(DevicePointer to, unsigned short value, size_t count, Stream* stream) {
  return call(true, [&](Driver& d) { return fill<uint16_t>(d, stream, to, value, count, false); });
}
GPUSIM_API int cuMemsetD32Async(DevicePointer to, unsigned value, size_t count, Stream* stream) {
  return call(true, [&](Driver& d) { return fill<uint32_t>(d, stream, to, value, count, false); });
}

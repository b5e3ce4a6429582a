// Initialisation, devices and contexts.
#include <cstdio>
#include <cstring>

#include "driver/state.h"

using namespace gpusim;

GPUSIM_API int cuInit(unsigned) {
  Driver& driver = Driver::get();
  const std::lock_guard<std::recursive_mutex> lock(driver.mutex);
  return static_cast<int>(driver.initialize());
}

GPUSIM_API int cuDriverGetVersion(int* version) {
  if (version == nullptr) return static_cast<int>(Result::invalid_value);
  *version = 13000;
  return 0;
}

GPUSIM_API int cuDeviceGetCount(int* count) {
  return call(false, [&](Driver& driver) {
    if (count == nullptr) return Result::invalid_value;
    *count = static_cast<int>(driver.devices.size());
    return Result::success;
  });
}

namespace {

template <class F>
int on_device(int ordinal, F&& f) {
  return call(false, [&](Driver& driver) {
    if (ordinal < 0 || static_cast<size_t>(ordinal) >= driver.devices.size()) return Result::invalid_device;
    return f(driver, *driver.devices[static_cast<size_t>(ordinal)]);
  });
}

/// Values of CUdevice_attribute.
int attribute_value(const Device& device, int attribute, bool* known) {
  *known = true;
  switch (attribute) {
    case 1: return 1024;  // threads per block
    case 2:
    case 3: return 1024;  // block dimensions
    case 4: return 64;
    case 5: return 0x7fffffff;  // grid dimensions
    case 6:
    case 7: return 65535;
    case 8: return 48 << 10;  // shared memory per block
    case 9: return 64 << 10;  // constant memory
    case 10: return 32;       // warp size
    case 12:
    case 82: return 65536;    // registers
    case 13: return 1410000;  // clocks are nominal: there is no time
    case 15: return 1;        // overlap of copies
    case 16: return device.sm_count;
    case 17: return 0;                   // kernel timeout
    case 18: return 0;                   // integrated
    case 19: return 1;                   // maps host memory
    case 20: return 0;                   // compute mode
    case 31: return 1;                   // concurrent kernels
    case 33: return device.ordinal + 1;  // PCI bus, device, domain
    case 34:
    case 50: return 0;
    case 36: return 1593000;
    case 37: return 5120;
    case 38: return device.sm >= 90 ? 50 << 20 : device.sm >= 80 ? 40 << 20 : 4 << 20;  // L2
    case 39: return device.max_threads_per_sm;
    case 40: return 2;  // copy engines
    case 41: return 1;  // unified addressing
    case 75: return device.sm / 10;
    case 76: return device.sm % 10;
    case 78: return 1;  // stream priorities
    case 81: return static_cast<int>(device.shared_per_sm);
    case 83:
    case 89: return 0;  // managed memory
    case 95: return 0;  // cooperative launch
    case 97: return static_cast<int>(device.shared_per_block);
    case 106: return 32;  // blocks per multiprocessor
    case 111: return device.sm >= 80 ? 1024 : 0;
    case 115: return 0;                // memory pools
    case 120: return 0;                // clusters
    case 127: return device.sm >= 90;  // tensor maps
    default: *known = attribute > 0 && attribute < 150; return 0;
  }
}

}  // namespace

GPUSIM_API int cuDeviceGet(int* device, int ordinal) {
  return on_device(ordinal, [&](Driver&, Device&) {
    if (device == nullptr) return Result::invalid_value;
    *device = ordinal;
    return Result::success;
  });
}

GPUSIM_API int cuDeviceGetName(char* name, int length, int ordinal) {
  return on_device(ordinal, [&](Driver&, Device& device) {
    if (name == nullptr || length <= 0) return Result::invalid_value;
    std::snprintf(name, static_cast<size_t>(length), "gpusim software device sm_%d", device.sm);
    return Result::success;
  });
}

GPUSIM_API int cuDeviceTotalMem_v2(size_t* bytes, int ordinal) {
  return on_device(ordinal, [&](Driver&, Device& device) {
    if (bytes == nullptr) return Result::invalid_value;
    *bytes = device.memory;
    return Result::success;
  });
}

GPUSIM_API int cuDeviceGetAttribute(int* value, int attribute, int ordinal) {
  return on_device(ordinal, [&](Driver&, Device& device) {
    bool known = false;
    if (value == nullptr) return Result::invalid_value;
    *value = attribute_value(device, attribute, &known);
    return known ? Result::success : Result::invalid_value;
  });
}

GPUSIM_API int cuDeviceComputeCapability(int* major, int* minor, int ordinal) {
  return on_device(ordinal, [&](Driver&, Device& device) {
    if (major == nullptr || minor == nullptr) return Result::invalid_value;
    *major = device.sm / 10;
    *minor = device.sm % 10;
    return Result::success;
  });
}

GPUSIM_API int cuDeviceGetUuid_v2(char* uuid, int ordinal) {
  return on_device(ordinal, [&](Driver&, Device&) {
    if (uuid == nullptr) return Result::invalid_value;
    std::memset(uuid, 0, 16);
    std::memcpy(uuid, "gpusim", 6);
    uuid[15] = static_cast<char>(ordinal);
    return Result::success;
  });
}

GPUSIM_API int cuDeviceGetUuid(char* uuid, int ordinal) { return cuDeviceGetUuid_v2(uuid, ordinal); }

GPUSIM_API int cuDeviceGetPCIBusId(char* text, int length, int ordinal) {
  return on_device(ordinal, [&](Driver&, Device&) {
    if (text == nullptr || length < 13) return Result::invalid_value;
    std::snprintf(text, static_cast<size_t>(length), "0000:%02x:00.0", ordinal + 1);
    return Result::success;
  });
}

// ---- contexts

GPUSIM_API int cuDevicePrimaryCtxRetain(Context** context, int ordinal) {
  return on_device(ordinal, [&](Driver& driver, Device& device) {
    if (context == nullptr) return Result::invalid_value;
    if (device.primary == nullptr) {
      device.primary = new Context{&device, true};
      driver.contexts.insert(device.primary);
    }
    device.retained++;
    *context = device.primary;
    return Result::success;
  });
}

namespace {

/// Memory, streams, events and modules of the device's contexts go; a failed device works again.
void reset_device(Driver& driver, Device& device) {
  driver.destroy_streams(&device);
  for (auto it = driver.events.begin(); it != driver.events.end();) {
    if ((*it)->device == &device) {
      delete *it;
      it = driver.events.erase(it);
    } else {
      ++it;
    }
  }
  for (auto it = driver.modules.begin(); it != driver.modules.end();) {
    if ((*it)->device == &device) {
      delete *it;
      it = driver.modules.erase(it);
    } else {
      ++it;
    }
  }
  GlobalMemory::get().release_device(device.ordinal);
  device.sticky = Result::success;
  device.peers = uint64_t{1} << device.ordinal;
}

}  // namespace

GPUSIM_API int cuDevicePrimaryCtxReset_v2(int ordinal) {
  return on_device(ordinal, [&](Driver& driver, Device& device) {
    if (device.sticky == Result::success) driver.drain_device(&device);
    reset_device(driver, device);
    return Result::success;
  });
}

GPUSIM_API int cuDevicePrimaryCtxReset(int ordinal) { return cuDevicePrimaryCtxReset_v2(ordinal); }

GPUSIM_API int cuDevicePrimaryCtxRelease_v2(int ordinal) {
  return on_device(ordinal, [&](Driver& driver, Device& device) {
    if (device.retained == 0) return Result::invalid_context;
    if (--device.retained > 0) return Result::success;
    if (device.sticky == Result::success) driver.drain_device(&device);
    reset_device(driver, device);
    driver.contexts.erase(device.primary);
    delete device.primary;
    device.primary = nullptr;
    return Result::success;
  });
}

GPUSIM_API int cuDevicePrimaryCtxRelease(int ordinal) { return cuDevicePrimaryCtxRelease_v2(ordinal); }

GPUSIM_API int cuDevicePrimaryCtxSetFlags_v2(int ordinal, unsigned) {
  return on_device(ordinal, [&](Driver&, Device&) { return Result::success; });
}

GPUSIM_API int cuDevicePrimaryCtxGetState(int ordinal, unsigned* flags, int* active) {
  return on_device(ordinal, [&](Driver&, Device& device) {
    if (flags == nullptr || active == nullptr) return Result::invalid_value;
    *flags = 0;
    *active = device.primary != nullptr;
    return Result::success;
  });
}

// A context that is not the primary one shares the device's memory and its failures with it.
GPUSIM_API int cuCtxCreate_v2(Context** context, unsigned flags, int ordinal) {
  return on_device(ordinal, [&](Driver& driver, Device& device) {
    if (context == nullptr) return Result::invalid_value;
    *context = new Context{&device, false, flags};
    driver.contexts.insert(*context);
    context_stack().push_back(*context);
    return Result::success;
  });
}

GPUSIM_API int cuCtxCreate_v4(Context** context, void* params, unsigned flags, int ordinal) {
  if (params != nullptr) return static_cast<int>(Result::not_supported);
  return cuCtxCreate_v2(context, flags, ordinal);
}

GPUSIM_API int cuCtxDestroy_v2(Context* context) {
  return call(false, [&](Driver& driver) {
    if (driver.contexts.count(context) == 0 || context->is_primary) return Result::invalid_context;
    driver.drain_device(context->device);
    driver.contexts.erase(context);
    auto& stack = context_stack();
    if (!stack.empty() && stack.back() == context) stack.pop_back();
    delete context;
    return Result::success;
  });
}

GPUSIM_API int cuCtxSetCurrent(Context* context) {
  return call(false, [&](Driver& driver) {
    auto& stack = context_stack();
    if (context != nullptr && driver.contexts.count(context) == 0) return Result::invalid_context;
    if (!stack.empty()) stack.pop_back();
    if (context != nullptr) stack.push_back(context);
    return Result::success;
  });
}

GPUSIM_API int cuCtxGetCurrent(Context** context) {
  return call(false, [&](Driver&) {
    if (context == nullptr) return Result::invalid_value;
    *context = current_context();
    return Result::success;
  });
}

GPUSIM_API int cuCtxPushCurrent_v2(Context* context) {
  return call(false, [&](Driver& driver) {
    if (driver.contexts.count(context) == 0) return Result::invalid_context;
    context_stack().push_back(context);
    return Result::success;
  });
}

GPUSIM_API int cuCtxPopCurrent_v2(Context** context) {
  return call(false, [&](Driver&) {
    if (context_stack().empty()) return Result::invalid_context;
    if (context != nullptr) *context = current_context();
    context_stack().pop_back();
    return Result::success;
  });
}

GPUSIM_API int cuCtxGetDevice(int* device) {
  return call(true, [&](Driver&) {
    if (device == nullptr) return Result::invalid_value;
    *device = current_context()->device->ordinal;
    return Result::success;
  });
}

GPUSIM_API int cuCtxGetApiVersion(Context*, unsigned* version) {
  if (version == nullptr) return static_cast<int>(Result::invalid_value);
  *version = 13000;
  return 0;
}

GPUSIM_API int cuCtxSynchronize() {
  return call(true, [&](Driver& driver) {
    driver.drain_device(current_context()->device);
    return Result::success;
  });
}

GPUSIM_API int cuCtxGetLimit(size_t* value, int limit) {
  return call(true, [&](Driver&) {
    if (value == nullptr || limit < 0 || limit > 6) return Result::invalid_value;
    *value = limit == 0 ? 1024 : 0;
    return Result::success;
  });
}

GPUSIM_API int cuCtxSetLimit(int limit, size_t) {
  return call(true, [&](Driver&) { return limit < 0 || limit > 6 ? Result::invalid_value : Result::success; });
}

GPUSIM_API int cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  return call(true, [&](Driver&) {
    if (least != nullptr) *least = 0;
    if (greatest != nullptr) *greatest = -5;
    return Result::success;
  });
}

// ---- peers

GPUSIM_API int cuDeviceCanAccessPeer(int* can, int ordinal, int peer) {
  return on_device(ordinal, [&](Driver& driver, Device&) {
    if (can == nullptr) return Result::invalid_value;
    if (peer < 0 || static_cast<size_t>(peer) >= driver.devices.size()) return Result::invalid_device;
    *can = ordinal != peer;
    return Result::success;
  });
}

GPUSIM_API int cuCtxEnablePeerAccess(Context* peer, unsigned flags) {
  return call(true, [&](Driver& driver) {
    Device* device = current_context()->device;
    if (flags != 0) return Result::invalid_value;
    if (driver.contexts.count(peer) == 0) return Result::invalid_context;
    if (peer->device == device) return Result::peer_access_unsupported;
    const uint64_t bit = uint64_t{1} << peer->device->ordinal;
    if ((device->peers & bit) != 0) return Result::peer_access_already_enabled;
    device->peers |= bit;
    return Result::success;
  });
}

GPUSIM_API int cuCtxDisablePeerAccess(Context* peer) {
  return call(true, [&](Driver& driver) {
    Device* device = current_context()->device;
    if (driver.contexts.count(peer) == 0) return Result::invalid_context;
    const uint64_t bit = uint64_t{1} << peer->device->ordinal;
    if (peer->device == device || (device->peers & bit) == 0) return Result::peer_access_not_enabled;
    device->peers &= ~bit;
    return Result::success;
  });
}

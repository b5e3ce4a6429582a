// Streams and events. Nothing runs when it is issued: work happens at the latest moment that the driver allows, when a
// synchronisation, an event or another stream waits for it; with a seed also earlier, see order.cc.
#include "driver/state.h"

#include <atomic>
#include <thread>

using namespace gpusim;

namespace {

/// "Time" for events: how many operations have run. Monotonic, and nothing else.
std::atomic<uint64_t> ticks{0};

template <class F>
int on_stream(Stream* stream, F&& f) {
  return call(true, [&](Driver& driver) {
    Stream* resolved = driver.resolve(stream);
    return resolved == nullptr ? Result::invalid_handle : f(driver, *resolved);
  });
}

template <class F>
int on_event(Event* event, F&& f) {
  return call(true, [&](Driver& driver) {
    return driver.events.count(event) == 0 ? Result::invalid_handle : f(driver, *event);
  });
}

/// A wait that the capture cannot hold breaks it.
bool breaks_capture(Stream& stream) {
  if (!stream.capture) return false;
  stream.capture->invalidated = true;
  return true;
}

}  // namespace

GPUSIM_API int cuStreamCreateWithPriority(Stream** stream, unsigned flags, int priority) {
  return call(true, [&](Driver& driver) {
    if (stream == nullptr || flags > 1) return Result::invalid_value;
    *stream = new Stream;
    (*stream)->device = current_context()->device;
    (*stream)->non_blocking = flags == 1;
    (*stream)->flags = flags;
    (*stream)->priority = priority;
    (*stream)->place = ++driver.streams_made;
    driver.streams.insert(*stream);
    return Result::success;
  });
}

GPUSIM_API int cuStreamCreate(Stream** stream, unsigned flags) { return cuStreamCreateWithPriority(stream, flags, 0); }

GPUSIM_API int cuStreamDestroy_v2(Stream* stream) {
  return call(true, [&](Driver& driver) {
    if (driver.streams.count(stream) == 0) return Result::invalid_handle;
    driver.drain(stream, stream->issued);
    for (Event* event : driver.events)
      if (event->stream == stream) event->stream = nullptr;
    driver.streams.erase(stream);
    delete stream;
    return Result::success;
  });
}

GPUSIM_API int cuStreamSynchronize(Stream* stream) {
  return on_stream(stream, [](Driver& driver, Stream& of) {
    if (breaks_capture(of)) return Result::stream_capture_unsupported;
    driver.drain(&of, of.issued);
    return of.device->sticky;
  });
}

// The first question after new work is answered "not ready"; each later one lets one operation happen.
GPUSIM_API int cuStreamQuery(Stream* stream) {
  return on_stream(stream, [](Driver& driver, Stream& of) {
    if (breaks_capture(of)) return Result::stream_capture_unsupported;
    if (of.done == of.issued) return of.device->sticky;
    if (of.polls++ > 0) driver.advance(&of, of.done + 1);
    return of.done == of.issued ? of.device->sticky : Result::not_ready;
  });
}

GPUSIM_API int cuStreamGetFlags(Stream* stream, unsigned* flags) {
  return on_stream(stream, [&](Driver&, Stream& of) {
    if (flags == nullptr) return Result::invalid_value;
    *flags = of.flags;
    return Result::success;
  });
}

GPUSIM_API int cuStreamGetPriority(Stream* stream, int* priority) {
  return on_stream(stream, [&](Driver&, Stream& of) {
    if (priority == nullptr) return Result::invalid_value;
    *priority = of.priority;
    return Result::success;
  });
}

GPUSIM_API int cuStreamGetCtx(Stream* stream, Context** context) {
  return on_stream(stream, [&](Driver&, Stream&) {
    if (context == nullptr) return Result::invalid_value;
    *context = current_context();
    return Result::success;
  });
}

GPUSIM_API int cuStreamWaitEvent(Stream* stream, Event* event, unsigned) {
  return on_stream(stream, [&](Driver& driver, Stream& of) {
    if (driver.events.count(event) == 0) return Result::invalid_handle;
    if (event->capture) {
      if (of.capture && of.capture != event->capture) return Result::stream_capture_invalidated;
      // The stream joins the capture, or the capture's streams join each other.
      of.capture = event->capture;
      of.capture->streams.insert(&of);
      if (event->stream != nullptr) of.capture->unjoined.erase(event->stream);
      if (&of != of.capture->origin) of.capture->unjoined.insert(&of);
      return Result::success;
    }
    if (of.capture) {
      of.capture->invalidated = true;
      return Result::stream_capture_unsupported;
    }
    if (event->stream == nullptr) return Result::success;  // never recorded
    Stream* other = event->stream;
    Condition condition;
    if (other != &of) condition.after.emplace_back(other, event->number);
    return driver.enqueue(&of, 6, [] {}, nullptr, std::move(condition));
  });
}

// The stream waits until the word at `address` compares as asked; whoever writes it need not call the driver.
GPUSIM_API int cuStreamWaitValue32_v2(Stream* stream, DevicePointer address, uint32_t value, unsigned flags) {
  return on_stream(stream, [&](Driver& driver, Stream& of) {
    if (breaks_capture(of)) return Result::stream_capture_unsupported;
    const Allocation* allocation = GlobalMemory::get().find(address);
    if (address % sizeof value != 0 || allocation == nullptr || !allocation->contains(address, sizeof value))
      return Result::invalid_value;
    if (flags > 1) return Result::not_supported;
    const auto* word = reinterpret_cast<const uint32_t*>(allocation->data + (address - allocation->base));
    const auto ready = [=] {
      const uint32_t seen = __atomic_load_n(word, __ATOMIC_ACQUIRE);
      return flags == 1 ? seen == value : static_cast<int32_t>(seen - value) >= 0;
    };
    return driver.enqueue(&of, 13, [] {}, nullptr, {{}, ready});
  });
}

GPUSIM_API int cuLaunchHostFunc(Stream* stream, void (*function)(void*), void* data) {
  return on_stream(stream, [&](Driver& driver, Stream& of) {
    if (function == nullptr) return Result::invalid_value;
    const Result result = driver.enqueue(&of, 3, [function, data] { function(data); });
    if (result != Result::success || of.capture) return result;
    // Whoever waits for the function itself waits for no call of the driver: somebody must drain the stream.
    Stream* target = &of;
    const uint64_t number = of.issued;
    std::thread([target, number] {
      Driver& all = Driver::get();
      const std::lock_guard<std::recursive_mutex> lock(all.mutex);
      if (target->default_stream || all.streams.count(target) != 0) all.drain(target, number);
    }).detach();
    return Result::success;
  });
}

// ---- events

GPUSIM_API int cuEventCreate(Event** event, unsigned flags) {
  return call(true, [&](Driver& driver) {
    if (event == nullptr) return Result::invalid_value;
    *event = new Event;
    (*event)->device = current_context()->device;
    (*event)->timing = (flags & 2) == 0;
    driver.events.insert(*event);
    return Result::success;
  });
}

GPUSIM_API int cuEventDestroy_v2(Event* event) {
  return on_event(event, [&](Driver& driver, Event&) {
    // Work that would still write into it must not find it gone.
    if (event->stream != nullptr && !event->capture) driver.drain(event->stream, event->number);
    driver.events.erase(event);
    delete event;
    return Result::success;
  });
}

GPUSIM_API int cuEventRecord(Event* event, Stream* stream) {
  return on_stream(stream, [&](Driver& driver, Stream& of) {
    if (driver.events.count(event) == 0) return Result::invalid_handle;
    if (event->device != of.device) return Result::invalid_handle;
    event->stream = &of;
    event->capture = of.capture;
    if (of.capture) return Result::success;
    const Result result = driver.enqueue(&of, 7, [event] { event->time = ++ticks; });
    event->number = of.issued;
    return result;
  });
}

GPUSIM_API int cuEventRecordWithFlags(Event* event, Stream* stream, unsigned) { return cuEventRecord(event, stream); }

GPUSIM_API int cuEventSynchronize(Event* event) {
  return on_event(event, [](Driver& driver, Event& of) {
    if (of.capture) return Result::stream_capture_unsupported;
    if (of.stream != nullptr) driver.drain(of.stream, of.number);
    return of.device->sticky;
  });
}

GPUSIM_API int cuEventQuery(Event* event) {
  return on_event(event, [](Driver& driver, Event& of) {
    if (of.capture) return Result::stream_capture_unsupported;
    if (of.stream == nullptr || of.stream->done >= of.number) return of.device->sticky;
    if (of.stream->polls++ > 0) driver.advance(of.stream, of.stream->done + 1);
    return of.stream->done >= of.number ? of.device->sticky : Result::not_ready;
  });
}

// There is no time here: the number of operations in between, as microseconds.
GPUSIM_API int cuEventElapsedTime_v2(float* milliseconds, Event* start, Event* end) {
  return on_event(start, [&](Driver& driver, Event& first) {
    if (driver.events.count(end) == 0) return Result::invalid_handle;
    if (milliseconds == nullptr) return Result::invalid_value;
    if (!first.timing || !end->timing || first.time == 0 || end->stream == nullptr) return Result::invalid_handle;
    if (end->stream->done < end->number) return Result::not_ready;
    *milliseconds = static_cast<float>(end->time - first.time) * 1e-3f;
    return Result::success;
  });
}

GPUSIM_API int cuEventElapsedTime(float* milliseconds, Event* start, Event* end) {
  return cuEventElapsedTime_v2(milliseconds, start, end);
}

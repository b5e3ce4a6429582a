// Keeps the addon loadable on older systems: libstdc++ inside would otherwise take arc4random from the newest
// glibc that was there at build time. Hidden, so nobody else meets it.
#include <sys/random.h>

#include <cstdint>
#include <cstdlib>

extern "C" __attribute__((visibility("hidden"))) uint32_t arc4random() {
  uint32_t value = 0;
  if (getrandom(&value, sizeof value, 0) != static_cast<ssize_t>(sizeof value)) abort();
  return value;
}

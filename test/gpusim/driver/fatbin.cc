// Layout of a fatbin, little endian:
//   header   u32 0xBA55ED50, u16 version 1, u16 header size 16, u64 bytes that follow
//   entries  u16 kind (1 PTX, 2 ELF), u16, u32 size of this header, u64 payload size, u32 compressed size or 0, u32,
//            u16 minor, u16 major version, u32 sm, ..., at 40 u64 flags (0x8000 zstd), at 56 u64 uncompressed size
// A real driver prefers the cubin; this device runs PTX, and takes from the cubin what ptxas found out.
#include "driver/fatbin.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstring>

namespace gpusim {
namespace {

constexpr uint32_t kMagic = 0xba55ed50u;
constexpr uint64_t kZstd = 0x8000;
constexpr uint64_t kLargest = uint64_t{256} << 20;

template <class T>
T read(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// libzstd is part of every Debian and Ubuntu (dpkg needs it), its headers are not.
bool decompress_zstd(const uint8_t* from, size_t from_size, std::string* to, std::string* error) {
  using Decompress = size_t (*)(void*, size_t, const void*, size_t);
  using IsError = unsigned (*)(size_t);
  static void* const library = dlopen("libzstd.so.1", RTLD_NOW | RTLD_LOCAL);
  static const auto decompress = library == nullptr ? nullptr
                                                    : reinterpret_cast<Decompress>(dlsym(library, "ZSTD_decompress"));
  static const auto is_error = library == nullptr ? nullptr : reinterpret_cast<IsError>(dlsym(library, "ZSTD_isError"));
  if (decompress == nullptr || is_error == nullptr) {
    *error = "the fatbin is compressed and libzstd.so.1 was not found";
    return false;
  }
  const size_t size = decompress(&(*to)[0], to->size(), from, from_size);
  if (is_error(size) != 0 || size != to->size()) {
    *error = "a compressed entry of the fatbin is malformed";
    return false;
  }
  return true;
}

/// The number after ".target sm_"; 0 without one.
int target_of(const std::string& ptx, bool* specific) {
  const size_t at = ptx.find(".target");
  const size_t sm = at == std::string::npos ? at : ptx.find("sm_", at);
  if (sm == std::string::npos || sm > at + 32) return 0;
  size_t end = sm + 3;
  int number = 0;
  while (end < ptx.size() && ptx[end] >= '0' && ptx[end] <= '9' && number < 1000)
    number = number * 10 + (ptx[end++] - '0');
  *specific = end < ptx.size() && (ptx[end] == 'a' || ptx[end] == 'f');
  return number;
}

/// Registers and stack of each kernel, from the section headers and .nv.info of a cubin (ELF64). Malformed ones give none.
void read_cubin(const uint8_t* bytes, size_t size, std::unordered_map<std::string, KernelFacts>* facts) {
  if (size < 64 || std::memcmp(bytes, "\177ELF\2", 5) != 0) return;
  const auto table = read<uint64_t>(bytes + 40);
  const size_t count = read<uint16_t>(bytes + 60), names = read<uint16_t>(bytes + 62);
  if (table > size || count * 64 > size - table || names >= count) return;
  const auto header = [&](size_t i) { return bytes + table + i * 64; };
  const auto within = [&](const uint8_t* h) {
    const auto offset = read<uint64_t>(h + 24), length = read<uint64_t>(h + 32);
    return offset <= size && length <= size - offset;
  };
  if (!within(header(names))) return;
  const uint8_t* text = bytes + read<uint64_t>(header(names) + 24);
  const auto text_size = read<uint64_t>(header(names) + 32);
  std::vector<std::string> symbol_kernels;  // by symbol index
  for (size_t i = 0; i < count; i++) {
    const uint8_t* h = header(i);
    const auto name_at = read<uint32_t>(h);
    if (name_at >= text_size) return;
    const auto* end = static_cast<const uint8_t*>(std::memchr(text + name_at, 0, text_size - name_at));
    if (end == nullptr) return;
    const std::string name(reinterpret_cast<const char*>(text + name_at), static_cast<size_t>(end - (text + name_at)));
    if (name.compare(0, 6, ".text.") != 0) continue;
    // sh_info: registers in the upper 8 bits, the kernel's symbol below.
    const auto info = read<uint32_t>(h + 44);
    const size_t symbol = info & 0xffffff;
    (*facts)[name.substr(6)].registers = info >> 24;
    if (symbol < 65536) {
      if (symbol_kernels.size() <= symbol) symbol_kernels.resize(symbol + 1);
      symbol_kernels[symbol] = name.substr(6);
    }
  }
  for (size_t i = 0; i < count; i++) {
    const uint8_t* h = header(i);
    const char* name = reinterpret_cast<const char*>(text + read<uint32_t>(h));
    if (std::strcmp(name, ".nv.info") != 0 || !within(h)) continue;
    const uint8_t* at = bytes + read<uint64_t>(h + 24);
    const uint8_t* end = at + read<uint64_t>(h + 32);
    while (end - at >= 4) {
      const uint8_t format = at[0], attribute = at[1];
      const auto length = read<uint16_t>(at + 2);
      at += 4;
      if (format != 4) continue;  // the value is in the header itself
      if (length > end - at) break;
      // EIATTR_FRAME_SIZE: symbol, bytes.
      if (attribute == 0x11 && length >= 8) {
        const auto symbol = read<uint32_t>(at);
        if (symbol < symbol_kernels.size() && !symbol_kernels[symbol].empty())
          (*facts)[symbol_kernels[symbol]].frame_bytes = read<uint32_t>(at + 4);
      }
      at += length;
    }
  }
}

}  // namespace

size_t fatbin_size(const uint8_t* bytes) {
  if (read<uint32_t>(bytes) != kMagic || read<uint16_t>(bytes + 6) < 16) return 0;
  const auto body = read<uint64_t>(bytes + 8);
  return body > kLargest ? 0 : read<uint16_t>(bytes + 6) + static_cast<size_t>(body);
}

CodeImage read_fatbin(const uint8_t* bytes, size_t size, int sm) {
  CodeImage image;
  image.malformed = true;
  if (size < 16 || fatbin_size(bytes) == 0 || fatbin_size(bytes) > size) {
    image.error = "the fatbin's header is malformed";
    return image;
  }
  size = fatbin_size(bytes);
  int best = 0, cubin = 0;
  bool best_specific = false;
  for (size_t at = read<uint16_t>(bytes + 6); at < size;) {
    const uint8_t* entry = bytes + at;
    if (size - at < 64) break;
    const auto kind = read<uint16_t>(entry);
    const auto header = read<uint32_t>(entry + 4);
    const auto padded = read<uint64_t>(entry + 8);
    if (header < 64 || header > size - at || padded > size - at - header) {
      image.error = "an entry of the fatbin is malformed";
      return image;
    }
    const auto compressed = read<uint32_t>(entry + 16);
    const auto entry_sm = static_cast<int>(read<uint32_t>(entry + 28));
    const auto flags = read<uint64_t>(entry + 40);
    const auto original = read<uint64_t>(entry + 56);
    const uint8_t* payload = entry + header;
    at += header + padded;
    const bool wanted = (kind == 1 && entry_sm <= sm) || (kind == 2 && entry_sm == sm);
    if (!wanted) continue;
    std::string content;
    if (compressed != 0) {
      if ((flags & kZstd) == 0 || compressed > padded || original > kLargest) {
        image.error = "an entry of the fatbin is compressed in a way that is not implemented";
        return image;
      }
      content.resize(original);
      if (!decompress_zstd(payload, compressed, &content, &image.error)) return image;
    } else {
      content.assign(reinterpret_cast<const char*>(payload), padded);
    }
    if (kind == 2) {
      if (cubin <= entry_sm) read_cubin(reinterpret_cast<const uint8_t*>(content.data()), content.size(), &image.facts);
      cubin = entry_sm;
      continue;
    }
    bool specific = false;
    const int target = target_of(content, &specific);
    if (target == 0 || target > sm || (specific && target != sm)) continue;
    if (target > best || (target == best && specific && !best_specific)) {
      best = target;
      best_specific = specific;
      image.ptx = std::move(content);
    }
  }
  image.malformed = false;
  if (image.ptx.empty()) image.error = "the fatbin has no PTX for sm_" + std::to_string(sm) + " or below";
  return image;
}

}  // namespace gpusim

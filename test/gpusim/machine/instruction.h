// A kernel ready to run: one compact record an instruction, with the function that executes it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ptx/module.h"

namespace gpusim {

struct Warp;
struct Instruction;

/// What a handler tells the loop that called it.
enum class Flow : uint8_t {
  next,  // go on with the next instruction
  jump,  // the handler has changed the warp's groups
  wait,  // stay at this instruction; the group's state says for what
  rest,  // done, but let other warps run before the next
};

/// Executes an instruction for the lanes of `mask`, of which there is at least one.
using Handler = Flow (*)(Warp&, const Instruction&, uint32_t mask);

/// What the counters tell apart.
enum class Class : uint8_t {
  integer,
  floating,
  conversion,
  move,
  predicate,
  special_function,
  control,
  barrier,
  load_global,
  store_global,
  load_shared,
  store_shared,
  load_local,
  store_local,
  load_constant,
  atomic,
  collective,
  copy_async,
  matrix_load,
  mma,
  wgmma,
  other
};
constexpr int kClasses = static_cast<int>(Class::other) + 1;
const char* class_name(Class of);

/// Where an operand's 32 lanes are: a byte offset into the warp's registers, or with the top bit into the constants.
using Place = uint32_t;
constexpr Place kConstant = 0x80000000u;
constexpr Place kNowhere = 0x7fffffffu;  // the sink _

/// Predicates are masks of lanes, by index; these two are constant.
constexpr uint16_t kTrue = 0;
constexpr uint16_t kFalse = 1;

/// Operands of the instructions that have many.
struct OperandList {
  std::vector<Place> d, a, b, c;
};

struct Instruction {
  Handler run = nullptr;
  Handler inner = nullptr;  // the instruction itself, where `run` first checks its registers (see ops/wgmma.cc)
  const OperandList* more = nullptr;
  int64_t offset = 0;  // displacement of an address
  Place d = kNowhere, a = kNowhere, b = kNowhere, c = kNowhere;
  uint32_t flip = 0;  // all ones for @!p
  uint32_t imm = 0;   // an instruction's own constant
  int32_t line = 0;
  uint16_t guard = kTrue;
  uint16_t p = kTrue, q = kTrue;  // predicate operands
  bool wide_address = true;       // the address register has 64 bits
  Class kind = Class::other;
};

enum class SpecialRegister : uint8_t {
  tid_x,
  tid_y,
  tid_z,
  ntid_x,
  ntid_y,
  ntid_z,
  ctaid_x,
  ctaid_y,
  ctaid_z,
  nctaid_x,
  nctaid_y,
  nctaid_z,
  laneid,
  warpid,
  nwarpid,
  smid,
  nsmid,
  gridid,
  lanemask_eq,
  lanemask_lt,
  lanemask_le,
  lanemask_gt,
  lanemask_ge,
  zero,
  one,
  dynamic_smem_size,
  total_smem_size
};

struct Program {
  std::string name;
  std::vector<Instruction> code;
  std::vector<std::string> text;  // opcodes as written, one an instruction, for messages
  std::vector<std::unique_ptr<OperandList>> lists;
  std::vector<uint8_t> constants;
  uint32_t register_bytes = 0;
  uint32_t predicates = 2;
  struct Special {
    SpecialRegister id;
    Place place;
  };
  std::vector<Special> specials;

  struct Param {
    uint32_t offset, bytes;
  };
  std::vector<Param> params;
  uint32_t param_bytes = 0;
  uint32_t shared_bytes = 0;  // static; dynamic shared memory follows at dynamic_offset
  uint32_t dynamic_offset = 0;
  uint32_t local_bytes = 0;
  uint32_t required[3] = {0, 0, 0};
  uint32_t maximum[3] = {0, 0, 0};
  uint32_t registers = 0;  // 32-bit registers a thread: of the cubin, else an estimate by liveness
  bool registers_known = false;
  uint32_t spill_bytes = 0;
  int version = 0;  // 90 of .version 9.0
  int target = 0;
};

}  // namespace gpusim

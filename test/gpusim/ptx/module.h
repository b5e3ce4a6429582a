// The parsed text of a PTX module: what ptx/parser.h makes and machine/assemble.h turns into instructions. Names are
// resolved to declarations only there; here they are strings, with those of inner scopes made unique.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace gpusim {

/// A module that cannot be loaded: malformed text, or an instruction that is not implemented.
struct ModuleError : std::runtime_error {
  enum class Kind { syntax, unsupported, target };
  ModuleError(Kind kind_of, int line_of, const std::string& text)
      : std::runtime_error("PTX line " + std::to_string(line_of) + ": " + text), kind(kind_of), line(line_of) {}
  Kind kind;
  int line;
};

/// Registers of a kernel, those of inlined calls included: ten times what a large kernel declares.
constexpr size_t kMostRegisters = 1 << 17;

enum class Space : uint8_t { generic, global, shared, local, constant, param, reg };

/// A type suffix such as .u32: kind is u, s, f, b, or e.g. 'h' for the two-letter families below.
struct Type {
  enum class Kind : uint8_t { none, u, s, b, f, bf, tf, pred };
  Kind kind = Kind::none;
  uint8_t bits = 0;
  uint8_t count = 1;  // 2 for f16x2 and bf16x2
  int bytes() const { return bits * count / 8; }
  bool is(Kind k, int width) const { return kind == k && bits == width && count == 1; }
};

/// Reads u32, bf16x2, pred, ...; Kind::none when the word is no type.
Type parse_type(const std::string& word);

struct Operand {
  enum class Kind : uint8_t { reg, immediate, name, address, vector, sink };
  Kind kind = Kind::sink;
  bool negated = false;  // !%p
  std::string name;      // a register, variable or label; the base of an address, empty for an absolute one
  int64_t value = 0;     // an integer immediate or an address's displacement
  double number = 0;     // a floating-point immediate
  enum class Literal : uint8_t { integer, f32, f64, decimal } literal = Literal::integer;
  std::vector<Operand> items;   // of a vector; the coordinates of a tensor address
  std::vector<Operand> second;  // the q of p|q: none or one
};

struct Statement {
  int line = 0;
  std::string guard;  // the predicate of @p, empty without one
  bool guard_negated = false;
  std::string opcode;              // as written, for messages
  std::string base;                // its first part: "add"
  std::vector<std::string> parts;  // the others: "s32"
  std::vector<Operand> operands;
};

struct Variable {
  std::string name;
  Space space = Space::global;
  Type type;
  int align = 1;
  uint64_t bytes = 0;  // 0 for the unsized .extern .shared array
  bool external = false;
  std::vector<uint8_t> content;  // the initialiser, empty without one
  struct Address {
    uint64_t offset;
    std::string name;
    int64_t addend;
  };
  std::vector<Address> addresses;  // initialisers that are addresses of other variables
  int line = 0;
};

struct Register {
  std::string name;
  Type type;
};

/// An .entry, or a device function: a .func has results too, and what it is called with has no offsets.
struct Kernel {
  std::string name;
  int line = 0;
  std::string_view body;  // its text, from behind the opening brace to the closing one
  int body_line = 0;
  std::vector<Variable> results;  // of a .func: none or one
  std::vector<Variable> params;   // in order; value is their offset in the parameter block
  std::vector<uint32_t> param_offsets;
  uint32_t param_bytes = 0;
  uint32_t required[3] = {0, 0, 0};  // .reqntid
  uint32_t maximum[3] = {0, 0, 0};   // .maxntid
  // Of the body, once that is parsed:
  std::vector<Register> registers;
  std::vector<Variable> variables;  // .shared, .local, .const and .param of the body
  std::vector<Statement> code;
  struct Label {
    std::string name;
    uint32_t index;
  };
  std::vector<Label> labels;
};

struct Module {
  int version_major = 0, version_minor = 0;
  int target = 0;              // 80 of sm_80
  bool arch_specific = false;  // the a of sm_90a
  std::vector<Variable> variables;
  std::vector<Kernel> kernels;    // without what is in their bodies
  std::vector<Kernel> functions;  // those with a body
};

}  // namespace gpusim

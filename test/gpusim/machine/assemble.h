// Kernel text -> Program: resolves names, lays out parameters, shared and local memory, and lets each instruction's
// binder (ops/) choose its handler and check its modifiers. What no binder knows is an error here, before anything runs.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "machine/instruction.h"
#include "ptx/module.h"

namespace gpusim {

/// Device addresses of the module's .global and .const variables.
using Symbols = std::unordered_map<std::string, uint64_t>;

/// `kernel` as parse_ptx gives it; its text must still be there.
std::unique_ptr<Program> assemble(const Module& module, const Kernel& kernel, const Symbols& symbols);

// Windows of the generic address space (ISA 5.1): an address in one of them is not global memory.
constexpr uint64_t kSharedWindow = uint64_t{0xa000} << 32;
constexpr uint64_t kLocalWindow = uint64_t{0xb000} << 32;
constexpr uint64_t kParamWindow = uint64_t{0xc000} << 32;
constexpr uint64_t kWindowSize = uint64_t{1} << 32;

class Assembler;

/// One statement on its way to an instruction. Binders take the modifiers that they know; one that is left is an error.
class Binding {
 public:
  Binding(Assembler& assembler, const Statement& of, Instruction& instruction)
      : statement(of), in(instruction), assembler_(assembler), taken_(of.parts.size(), false) {}

  const Statement& statement;
  Instruction& in;

  bool take(const char* part);
  /// The one of `parts` that is there, by number; -1 for none.
  int take_one(std::initializer_list<const char*> parts);
  /// The next modifier that is a type.
  Type take_type();
  /// A type if one is left.
  Type maybe_type();
  void finish();
  [[noreturn]] void unsupported(const std::string& what) const;
  [[noreturn]] void malformed(const std::string& what) const;

  size_t operands() const { return statement.operands.size(); }
  const Operand& operand(size_t i) const;
  void require_operands(size_t count) const;

  /// An operand's lanes. Registers must be as wide as the type, or at least as wide where `wider` is set.
  Place source(const Operand& operand, Type type, bool wider = false);
  Place source(size_t i, Type type, bool wider = false) { return source(operand(i), type, wider); }
  Place destination(const Operand& operand, Type type, bool wider = false);
  /// Or kNowhere for the sink _.
  Place maybe_destination(const Operand& operand, Type type, bool wider = false);
  Place destination(size_t i, Type type, bool wider = false) { return destination(operand(i), type, wider); }
  uint16_t predicate(const Operand& operand);
  uint16_t predicate(size_t i) { return predicate(operand(i)); }
  uint16_t predicate_destination(const Operand& operand);
  /// Width in bits of a register operand; 0 for what is no register.
  int register_bits(const Operand& operand) const;
  /// Sets in.a, in.offset and in.wide_address from [base+offset].
  void address(const Operand& operand);
  /// The same into other places, for an instruction with two addresses.
  Place address_base(const Operand& operand, int64_t* offset, bool* wide);
  uint64_t constant(const Operand& operand) const;
  uint64_t constant(size_t i) const { return constant(operand(i)); }
  uint32_t label(const Operand& operand) const;
  OperandList& list();
  void sources(const Operand& vector, Type type, std::vector<Place>* places, bool wider = false);
  void destinations(const Operand& vector, Type type, std::vector<Place>* places, bool wider = false);
  /// The address of a variable as a constant: what mov gives for its name.
  uint64_t symbol(const Operand& operand) const;
  /// This instruction's registers keep a place of their own: asynchronous results arrive in them later.
  void pin_registers();

 private:
  Assembler& assembler_;
  std::vector<bool> taken_;
};

using Binder = void (*)(Binding&);
using OpTable = std::unordered_map<std::string, Binder>;
/// Every instruction: by its first word, or by that and the family of its last type, as in "add/f" (i integers and bits,
/// f float32 and float64, h 16-bit floats and pairs of them, p predicates).
const OpTable& op_table();
Binder find_binder(const Statement& statement);

// One of these in each file of ops/.
void add_integer_ops(OpTable* table);
void add_bit_ops(OpTable* table);
void add_float_ops(OpTable* table);
void add_half_ops(OpTable* table);
void add_conversion_ops(OpTable* table);
void add_move_ops(OpTable* table);
void add_predicate_ops(OpTable* table);
void add_control_ops(OpTable* table);
void add_memory_ops(OpTable* table);
void add_atomic_ops(OpTable* table);
void add_collective_ops(OpTable* table);
void add_barrier_ops(OpTable* table);
void add_mbarrier_ops(OpTable* table);
void add_copy_ops(OpTable* table);
void add_matrix_ops(OpTable* table);
void add_bulk_ops(OpTable* table);
void add_wgmma_ops(OpTable* table);

}  // namespace gpusim

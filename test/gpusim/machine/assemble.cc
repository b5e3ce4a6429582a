#include "machine/assemble.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "machine/allocate.h"
#include "ops/wgmma.h"
#include "ptx/inline.h"
#include "ptx/parser.h"

namespace gpusim {
namespace {

constexpr uint64_t kMostLocal = uint64_t{1} << 20;  // bytes a thread

// Until registers are placed, a Place holds the number of a virtual register.
constexpr Place kVirtual = 0x40000000u;
constexpr Place kDefinition = 0x20000000u;
constexpr Place kNumber = 0x1fffffffu;

const std::unordered_map<std::string, SpecialRegister>& special_registers() {
  using S = SpecialRegister;
  // ISA 10. Clusters have one block here.
  using Names = std::unordered_map<std::string, SpecialRegister>;
  static const Names& names = *new Names{{"%tid.x", S::tid_x},
                                         {"%tid.y", S::tid_y},
                                         {"%tid.z", S::tid_z},
                                         {"%ntid.x", S::ntid_x},
                                         {"%ntid.y", S::ntid_y},
                                         {"%ntid.z", S::ntid_z},
                                         {"%ctaid.x", S::ctaid_x},
                                         {"%ctaid.y", S::ctaid_y},
                                         {"%ctaid.z", S::ctaid_z},
                                         {"%nctaid.x", S::nctaid_x},
                                         {"%nctaid.y", S::nctaid_y},
                                         {"%nctaid.z", S::nctaid_z},
                                         {"%laneid", S::laneid},
                                         {"%warpid", S::warpid},
                                         {"%nwarpid", S::nwarpid},
                                         {"%smid", S::smid},
                                         {"%nsmid", S::nsmid},
                                         {"%lanemask_eq", S::lanemask_eq},
                                         {"%lanemask_lt", S::lanemask_lt},
                                         {"%lanemask_le", S::lanemask_le},
                                         {"%lanemask_gt", S::lanemask_gt},
                                         {"%lanemask_ge", S::lanemask_ge},
                                         {"%cluster_ctarank", S::zero},
                                         {"%cluster_nctarank", S::one},
                                         {"%cluster_ctaid.x", S::zero},
                                         {"%cluster_ctaid.y", S::zero},
                                         {"%cluster_ctaid.z", S::zero},
                                         {"%cluster_nctaid.x", S::one},
                                         {"%cluster_nctaid.y", S::one},
                                         {"%cluster_nctaid.z", S::one},
                                         {"%dynamic_smem_size", S::dynamic_smem_size},
                                         {"%total_smem_size", S::total_smem_size}};
  return names;
}

uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

uint64_t immediate_bits(const Operand& operand, Type type) {
  uint64_t bits = static_cast<uint64_t>(operand.value);
  if (type.kind == Type::Kind::f && type.bits == 64) {
    std::memcpy(&bits, &operand.number, 8);
  } else if (type.kind == Type::Kind::f && type.bits == 32 && operand.literal != Operand::Literal::f32) {
    const auto single = static_cast<float>(operand.number);
    bits = 0;
    std::memcpy(&bits, &single, 4);
  }
  const int width = type.bytes() * 8;
  return width >= 64 ? bits : bits & ((uint64_t{1} << width) - 1);
}

}  // namespace

class Assembler {
 public:
  Assembler(const Module& module, const Kernel& kernel, const Symbols& symbols)
      : module_(module), kernel_(kernel), symbols_(symbols), program_(std::make_unique<Program>()) {}

  std::unique_ptr<Program> run();

 private:
  friend class Binding;
  void lay_out_memory();
  Place constant(uint64_t bits, bool wide);
  void bind(const Statement& statement, Instruction* in);

  const Module& module_;
  const Kernel& kernel_;
  const Symbols& symbols_;
  std::unique_ptr<Program> program_;
  std::unordered_map<std::string, uint32_t> registers_;  // name -> id
  std::vector<VirtualRegister> virtual_;
  std::vector<int> bits_;
  std::vector<RegisterUse> uses_;
  std::unordered_map<std::string, uint16_t> predicates_;
  std::unordered_map<std::string, uint64_t> local_symbols_;  // shared, local and param variables
  std::unordered_map<std::string, uint32_t> labels_;
  std::unordered_map<uint64_t, Place> constants_[2];
  std::vector<std::pair<SpecialRegister, uint32_t>> specials_;
  std::unordered_set<uint32_t> asynchronous_;  // registers of wgmma
  uint32_t current_ = 0;
};

void Assembler::lay_out_memory() {
  Program& program = *program_;
  for (size_t i = 0; i < kernel_.params.size(); i++) {
    local_symbols_[kernel_.params[i].name] = kernel_.param_offsets[i];
    program.params.push_back({kernel_.param_offsets[i], static_cast<uint32_t>(kernel_.params[i].bytes)});
  }
  program.param_bytes = kernel_.param_bytes;
  uint64_t shared = 0, local = 0, dynamic_align = 16;
  std::vector<const Variable*> dynamic;
  const auto place = [&](const Variable& variable) {
    if (variable.space == Space::shared && variable.bytes == 0) {
      dynamic.push_back(&variable);
      dynamic_align = std::max<uint64_t>(dynamic_align, static_cast<uint64_t>(variable.align));
    } else if (variable.space == Space::shared) {
      shared = round_up(shared, static_cast<uint64_t>(variable.align));
      local_symbols_[variable.name] = shared;
      shared += variable.bytes;
    } else if (variable.space == Space::local) {
      local = round_up(local, static_cast<uint64_t>(variable.align));
      local_symbols_[variable.name] = local;
      local += variable.bytes;
    } else if (symbols_.count(variable.name) == 0) {
      throw ModuleError(ModuleError::Kind::unsupported, variable.line, "variable " + variable.name + " inside a body");
    }
    if (shared > (1u << 28) || local > kMostLocal)
      throw ModuleError(ModuleError::Kind::unsupported, variable.line, "more memory than any device has");
  };
  for (const Variable& variable : module_.variables)
    if (variable.space == Space::shared) place(variable);
  for (const Variable& variable : kernel_.variables) place(variable);
  program.shared_bytes = static_cast<uint32_t>(shared);
  program.dynamic_offset = static_cast<uint32_t>(dynamic.empty() ? shared : round_up(shared, dynamic_align));
  for (const Variable* variable : dynamic) local_symbols_[variable->name] = program.dynamic_offset;
  program.local_bytes = static_cast<uint32_t>(round_up(local, 16));
}

Place Assembler::constant(uint64_t bits, bool wide) {
  const auto found = constants_[wide].find(bits);
  if (found != constants_[wide].end()) return found->second;
  const Place place = kConstant | static_cast<Place>(program_->constants.size());
  const size_t bytes = wide ? 8 : 4;
  for (int lane = 0; lane < 32; lane++)
    for (size_t i = 0; i < bytes; i++) program_->constants.push_back(static_cast<uint8_t>(bits >> (8 * i)));
  constants_[wide][bits] = place;
  return place;
}

void Assembler::bind(const Statement& statement, Instruction* in) {
  const Binder binder = find_binder(statement);
  if (binder == nullptr)
    throw ModuleError(ModuleError::Kind::unsupported, statement.line,
                      "instruction " + statement.opcode + " is not implemented");
  in->line = statement.line;
  if (!statement.guard.empty()) {
    const auto guard = predicates_.find(statement.guard);
    if (guard == predicates_.end())
      throw ModuleError(ModuleError::Kind::syntax, statement.line, "unknown predicate " + statement.guard);
    in->guard = guard->second;
    in->flip = statement.guard_negated ? 0xffffffffu : 0;
  }
  Binding binding(*this, statement, *in);
  binder(binding);
  binding.finish();
  const auto record = [&](Place* place) {
    if ((*place & kConstant) == 0 && (*place & kVirtual) != 0 && *place != kNowhere)
      uses_.push_back({place, *place & kNumber, current_, (*place & kDefinition) != 0});
  };
  for (Place* place : {&in->d, &in->a, &in->b, &in->c}) record(place);
  if (in->more == nullptr) return;
  OperandList& list = *program_->lists.back();
  for (auto* places : {&list.d, &list.a, &list.b, &list.c})
    for (Place& place : *places) record(&place);
}

std::unique_ptr<Program> Assembler::run() {
  Program& program = *program_;
  program.name = kernel_.name;
  program.target = module_.target;
  program.version = module_.version_major * 10 + module_.version_minor;
  std::copy(kernel_.required, kernel_.required + 3, program.required);
  std::copy(kernel_.maximum, kernel_.maximum + 3, program.maximum);
  lay_out_memory();
  for (const Register& declared : kernel_.registers) {
    if (declared.type.kind == Type::Kind::pred) {
      if (program.predicates >= 0xffff)
        throw ModuleError(ModuleError::Kind::unsupported, kernel_.line, "too many predicates");
      predicates_[declared.name] = static_cast<uint16_t>(program.predicates++);
      continue;
    }
    const int bits = declared.type.bytes() * 8;
    registers_[declared.name] = static_cast<uint32_t>(virtual_.size());
    virtual_.push_back({bits == 64, false});
    bits_.push_back(bits);
  }
  const size_t size = kernel_.code.size();
  for (const Kernel::Label& label : kernel_.labels) labels_[label.name] = label.index;
  program.code.resize(size + 1);
  for (size_t i = 0; i < size; i++) {
    current_ = static_cast<uint32_t>(i);
    bind(kernel_.code[i], &program.code[i]);
    program.text.push_back(kernel_.code[i].opcode);
  }
  // A body that ends without ret ends all the same.
  Statement exit;
  exit.opcode = exit.base = "exit";
  exit.line = kernel_.code.empty() ? kernel_.line : kernel_.code.back().line;
  current_ = static_cast<uint32_t>(size);
  bind(exit, &program.code[size]);
  program.text.push_back("exit");

  std::vector<bool> branches(size + 1, false), ends(size + 1, false);
  for (size_t i = 0; i < size; i++) {
    branches[i] = kernel_.code[i].base == "bra";
    ends[i] = branches[i] || kernel_.code[i].base == "ret" || kernel_.code[i].base == "exit";
  }
  ends[size] = true;
  // Special registers are set before the first instruction.
  std::vector<Place> special_places(specials_.size());
  for (size_t i = 0; i < specials_.size(); i++) {
    virtual_[specials_[i].second].pinned = true;
    uses_.push_back({&special_places[i], specials_[i].second, 0, true});
  }
  const RegisterPlan plan = place_registers(virtual_, uses_, program.code, branches, ends);
  program.register_bytes = plan.bytes;
  for (const RegisterUse& use : uses_) {
    Instruction& in = program.code[use.instruction];
    if (!asynchronous_.empty() && asynchronous_.count(use.id) != 0 && in.kind != Class::wgmma && in.inner == nullptr) {
      in.inner = in.run;
      in.run = touch_wgmma_registers;
    }
  }
  program.registers = std::min<uint32_t>(255, plan.most_alive + 8);
  for (size_t i = 0; i < specials_.size(); i++) program.specials.push_back({specials_[i].first, special_places[i]});
  if (program.constants.empty()) constant(0, true);
  return std::move(program_);
}

std::unique_ptr<Program> assemble(const Module& module, const Kernel& kernel, const Symbols& symbols) {
  const Kernel inlined = inline_calls(module, parse_body(kernel));
  return Assembler(module, inlined, symbols).run();
}

// ---- Binding: modifiers

bool Binding::take(const char* part) {
  for (size_t i = 0; i < taken_.size(); i++)
    if (!taken_[i] && statement.parts[i] == part) {
      taken_[i] = true;
      return true;
    }
  return false;
}

int Binding::take_one(std::initializer_list<const char*> parts) {
  int number = 0;
  for (const char* part : parts) {
    if (take(part)) return number;
    number++;
  }
  return -1;
}

Type Binding::maybe_type() {
  for (size_t i = 0; i < taken_.size(); i++) {
    const Type type = taken_[i] ? Type() : parse_type(statement.parts[i]);
    if (type.kind == Type::Kind::none) continue;
    taken_[i] = true;
    return type;
  }
  return Type();
}

Type Binding::take_type() {
  const Type type = maybe_type();
  if (type.kind == Type::Kind::none) malformed("lacks a type");
  return type;
}

void Binding::finish() {
  for (size_t i = 0; i < taken_.size(); i++)
    if (!taken_[i]) unsupported("." + statement.parts[i]);
}

void Binding::unsupported(const std::string& what) const {
  throw ModuleError(ModuleError::Kind::unsupported, statement.line,
                    "instruction " + statement.opcode + " is not implemented (" + what + ")");
}

void Binding::malformed(const std::string& what) const {
  throw ModuleError(ModuleError::Kind::syntax, statement.line, "instruction " + statement.opcode + ": " + what);
}

// ---- Binding: operands

const Operand& Binding::operand(size_t i) const {
  if (i >= statement.operands.size()) malformed("lacks operand " + std::to_string(i + 1));
  return statement.operands[i];
}

void Binding::require_operands(size_t count) const {
  if (operands() != count)
    malformed("has " + std::to_string(operands()) + " operands instead of " + std::to_string(count));
}

int Binding::register_bits(const Operand& operand) const {
  const auto found = assembler_.registers_.find(operand.name);
  if (operand.kind != Operand::Kind::reg || found == assembler_.registers_.end()) return 0;
  return assembler_.bits_[found->second];
}

Place Binding::source(const Operand& operand, Type type, bool wider) {
  const int width = type.bytes() * 8;
  if (operand.negated) malformed("'!' is for predicates");
  switch (operand.kind) {
    case Operand::Kind::immediate: return assembler_.constant(immediate_bits(operand, type), width == 64);
    case Operand::Kind::name: return assembler_.constant(symbol(operand), width == 64);
    case Operand::Kind::reg: break;
    default: malformed("an operand has the wrong form");
  }
  auto found = assembler_.registers_.find(operand.name);
  if (found == assembler_.registers_.end()) {
    const auto special = special_registers().find(operand.name);
    if (special == special_registers().end()) malformed("unknown register " + operand.name);
    found = assembler_.registers_.emplace(operand.name, static_cast<uint32_t>(assembler_.virtual_.size())).first;
    assembler_.virtual_.push_back({false, true});
    assembler_.bits_.push_back(32);
    assembler_.specials_.emplace_back(special->second, found->second);
  }
  const int bits = assembler_.bits_[found->second];
  if (wider ? bits < width : bits != width)
    malformed("register " + operand.name + " has " + std::to_string(bits) + " bits");
  return kVirtual | found->second;
}

Place Binding::maybe_destination(const Operand& operand, Type type, bool wider) {
  return operand.kind == Operand::Kind::sink ? kNowhere : destination(operand, type, wider);
}

Place Binding::destination(const Operand& operand, Type type, bool wider) {
  const auto found = assembler_.registers_.find(operand.name);
  if (operand.kind != Operand::Kind::reg || operand.negated || found == assembler_.registers_.end() ||
      special_registers().count(operand.name) != 0)
    malformed("the destination is no register");
  const int bits = assembler_.bits_[found->second];
  if (wider ? bits < type.bytes() * 8 : bits != type.bytes() * 8)
    malformed("register " + operand.name + " has " + std::to_string(bits) + " bits");
  return kVirtual | kDefinition | found->second;
}

void Binding::sources(const Operand& vector, Type type, std::vector<Place>* places, bool wider) {
  if (vector.kind != Operand::Kind::vector) {
    places->push_back(source(vector, type, wider));
    return;
  }
  for (const Operand& item : vector.items) places->push_back(source(item, type, wider));
}

void Binding::destinations(const Operand& vector, Type type, std::vector<Place>* places, bool wider) {
  if (vector.kind != Operand::Kind::vector) {
    places->push_back(maybe_destination(vector, type, wider));
    return;
  }
  for (const Operand& item : vector.items) places->push_back(maybe_destination(item, type, wider));
}

OperandList& Binding::list() {
  if (in.more == nullptr) {
    assembler_.program_->lists.push_back(std::make_unique<OperandList>());
    in.more = assembler_.program_->lists.back().get();
  }
  return *assembler_.program_->lists.back();
}

void Binding::pin_registers() {
  const auto pin = [&](Place place) {
    if ((place & kConstant) == 0 && (place & kVirtual) != 0 && place != kNowhere) {
      assembler_.virtual_[place & kNumber].pinned = true;
      assembler_.asynchronous_.insert(place & kNumber);
    }
  };
  OperandList& of = list();
  for (auto* places : {&of.d, &of.a, &of.b, &of.c})
    for (Place place : *places) pin(place);
}

uint16_t Binding::predicate(const Operand& operand) {
  if (operand.kind == Operand::Kind::immediate) return operand.value != 0 ? kTrue : kFalse;
  const auto found = assembler_.predicates_.find(operand.name);
  if (operand.kind != Operand::Kind::reg || found == assembler_.predicates_.end()) malformed("expected a predicate");
  return found->second;
}

uint16_t Binding::predicate_destination(const Operand& operand) {
  if (operand.kind != Operand::Kind::reg) malformed("expected a predicate register");
  return predicate(operand);
}

uint64_t Binding::constant(const Operand& operand) const {
  if (operand.kind != Operand::Kind::immediate || operand.literal != Operand::Literal::integer)
    malformed("expected an integer constant");
  return static_cast<uint64_t>(operand.value);
}

uint32_t Binding::label(const Operand& operand) const {
  const auto found = assembler_.labels_.find(operand.name);
  if (operand.kind != Operand::Kind::name || found == assembler_.labels_.end())
    malformed("unknown label " + operand.name);
  return found->second;
}

uint64_t Binding::symbol(const Operand& operand) const {
  const auto addend = static_cast<uint64_t>(operand.value);
  const auto local = assembler_.local_symbols_.find(operand.name);
  if (local != assembler_.local_symbols_.end()) return local->second + addend;
  const auto global = assembler_.symbols_.find(operand.name);
  if (global == assembler_.symbols_.end()) malformed("unknown name " + operand.name);
  return global->second + addend;
}

Place Binding::address_base(const Operand& operand, int64_t* offset, bool* wide) {
  if (operand.kind != Operand::Kind::address) malformed("expected an address");
  *offset = operand.value;
  *wide = true;
  Operand base = operand;
  base.value = 0;
  base.items.clear();
  const Type b64 = {Type::Kind::b, 64};
  if (operand.name.empty()) {
    base.kind = Operand::Kind::immediate;
    return source(base, b64);
  }
  base.kind = operand.name[0] == '%' || assembler_.registers_.count(operand.name) != 0 ? Operand::Kind::reg
                                                                                       : Operand::Kind::name;
  if (base.kind == Operand::Kind::name) return source(base, b64);
  *wide = register_bits(base) == 64;
  return source(base, *wide ? b64 : Type{Type::Kind::b, 32});
}

void Binding::address(const Operand& operand) { in.a = address_base(operand, &in.offset, &in.wide_address); }

}  // namespace gpusim

#include "ptx/inline.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

namespace gpusim {
namespace {

constexpr size_t kMostStatements = 1 << 16;  // of a kernel with calls, when all are inlined
constexpr int kMostCalls = 1 << 12;
constexpr size_t kDeepestCalls = 64;

using Names = std::unordered_map<std::string, std::string>;

[[noreturn]] void malformed(int line, const std::string& text) {
  throw ModuleError(ModuleError::Kind::syntax, line, text);
}
[[noreturn]] void unsupported(int line, const std::string& text) {
  throw ModuleError(ModuleError::Kind::unsupported, line, text);
}

class Inliner {
 public:
  Inliner(const Module& module, const Kernel& kernel) : kernel_(kernel), out_(kernel) {
    for (const Kernel& function : module.functions) functions_[function.name] = &function;
    for (const Variable& param : kernel.params) kernel_names_.insert(param.name);
    for (const Register& declared : kernel.registers) kernel_names_.insert(declared.name);
    for (const Kernel::Label& label : kernel.labels) kernel_names_.insert(label.name);
    for (const Variable& variable : kernel.variables) kernel_names_.insert(variable.name);
  }

  Kernel run() {
    out_.code.clear();
    out_.labels.clear();
    for (size_t i = 0; i < out_.variables.size(); i++) keep_param(i);
    expand(kernel_, nullptr, "");
    return std::move(out_);
  }

 private:
  // ISA 5.1.6.4: a .param variable of a body is a place on the caller's stack, so per-thread memory.
  void keep_param(size_t variable) {
    if (out_.variables[variable].space != Space::param) return;
    out_.variables[variable].space = Space::local;
    params_[out_.variables[variable].name] = variable;
  }

  /// Appends a body. `names` are what its own names are called at this site (null for the kernel itself, which keeps
  /// its names), `behind` is the label of the statement after the call.
  void expand(const Kernel& body, const Names* names, const std::string& behind) {
    std::vector<uint32_t> starts;
    starts.reserve(body.code.size() + 1);
    for (const Statement& written : body.code) {
      starts.push_back(static_cast<uint32_t>(out_.code.size()));
      Statement statement = written;
      if (names != nullptr) rename(&statement, *names);
      if (statement.base == "call") {
        call(statement);
        continue;
      }
      if (names != nullptr && statement.base == "ret") {
        if (!statement.operands.empty()) malformed(statement.line, "instruction ret: has operands");
        branch(&statement, behind);
      }
      param_to_local(&statement, names != nullptr);
      add(std::move(statement));
    }
    starts.push_back(static_cast<uint32_t>(out_.code.size()));
    for (const Kernel::Label& label : body.labels)
      out_.labels.push_back({names == nullptr ? label.name : names->at(label.name), starts[label.index]});
  }

  void add(Statement statement) {
    if (!open_.empty() && out_.code.size() >= kMostStatements)
      unsupported(statement.line, "kernel " + kernel_.name + " has too many statements with its calls inlined");
    out_.code.push_back(std::move(statement));
  }

  static void branch(Statement* statement, const std::string& label) {
    statement->base = "bra";
    Operand target;
    target.kind = Operand::Kind::name;
    target.name = label;
    statement->operands.assign(1, target);
  }

  void rename(Statement* statement, const Names& names) const {
    if (!statement->guard.empty()) rename(&statement->guard, names, statement->line);
    for (size_t i = 0; i < statement->operands.size(); i++)
      if (!(statement->base == "call" && i == 1)) rename(&statement->operands[i], names, statement->line);
  }
  void rename(Operand* operand, const Names& names, int line) const {
    if (!operand->name.empty()) rename(&operand->name, names, line);
    for (Operand& item : operand->items) rename(&item, names, line);
    for (Operand& item : operand->second) rename(&item, names, line);
  }
  void rename(std::string* name, const Names& names, int line) const {
    const auto found = names.find(*name);
    if (found != names.end())
      *name = found->second;
    else if (kernel_names_.count(*name) != 0)
      // A name of the module or a special register, unless the kernel has one like it: that must not be meant.
      malformed(line, "unknown name " + *name + " in a device function");
  }

  // ld.param and st.param reach the kernel's own parameters in the assembler, all others here (ISA 9.7.9.8, 9.7.9.12).
  void param_to_local(Statement* statement, bool in_function) const {
    const bool load = statement->base == "ld", store = statement->base == "st";
    if (!load && !store) return;
    const auto part = std::find_if(statement->parts.begin(), statement->parts.end(),
                                   [](const std::string& text) { return text == "param" || text == "param::func"; });
    const size_t place = load ? 1 : 0;
    if (part == statement->parts.end() || statement->operands.size() <= place) return;
    if (params_.count(statement->operands[place].name) != 0)
      *part = "local";
    else if (in_function)
      malformed(statement->line, statement->opcode + " in a device function: expected a parameter of it");
  }

  // ISA 9.7.12.4: call (result), function, (arguments); the parser puts them into three operands.
  void call(const Statement& statement) {
    const int line = statement.line;
    if (statement.operands.size() != 3 || statement.operands[1].kind != Operand::Kind::name)
      unsupported(line, "indirect calls are not implemented");
    for (const std::string& part : statement.parts)
      if (part != "uni") unsupported(line, "instruction " + statement.opcode + " is not implemented (." + part + ")");
    const std::string& name = statement.operands[1].name;
    const auto found = functions_.find(name);
    if (found == functions_.end()) unsupported(line, "call of " + name + ", a function without a body in this module");
    const Kernel& function = *found->second;
    if (std::find(open_.begin(), open_.end(), &function) != open_.end())
      unsupported(line, "function " + name + " calls itself: recursion is not implemented");
    if (open_.size() >= kDeepestCalls) unsupported(line, "calls are nested too deeply");
    if (++sites_ > kMostCalls)
      unsupported(line, "kernel " + kernel_.name + " has too many calls when they are inlined");

    const std::string suffix = "@" + std::to_string(sites_);
    Names names;
    pass(line, name, function.results, statement.operands[0].items, &names);
    pass(line, name, function.params, statement.operands[2].items, &names);
    open_.push_back(&function);
    declare(function, suffix, &names);
    const std::string behind = "behind" + suffix;
    if (!statement.guard.empty()) {
      Statement skip = statement;
      skip.parts.clear();
      skip.guard_negated = !skip.guard_negated;
      branch(&skip, behind);
      add(std::move(skip));
    }
    expand(function, &names, behind);
    open_.pop_back();
    out_.labels.push_back({behind, static_cast<uint32_t>(out_.code.size())});
  }

  // A formal parameter is another name of the variable that the caller gives for it.
  void pass(int line, const std::string& function, const std::vector<Variable>& formal,
            const std::vector<Operand>& actual, Names* names) {
    if (formal.size() != actual.size())
      malformed(line, "call of " + function + ": " + std::to_string(actual.size()) +
                          " arguments or results instead of " + std::to_string(formal.size()));
    for (size_t i = 0; i < formal.size(); i++) {
      const auto found = params_.find(actual[i].name);
      if (found == params_.end())
        unsupported(line, "call of " + function + ": an argument or result that is not a .param variable of the body");
      Variable& variable = out_.variables[found->second];
      if (variable.bytes != formal[i].bytes)
        malformed(line, "call of " + function + ": " + std::to_string(variable.bytes) + " bytes instead of " +
                            std::to_string(formal[i].bytes));
      variable.align = std::max(variable.align, formal[i].align);
      names->emplace(formal[i].name, variable.name);
    }
  }

  /// Adds what the function declares to the kernel: registers and labels of this site. Its variables exist once, since
  /// without recursion a thread is in one call of it at a time.
  void declare(const Kernel& function, const std::string& suffix, Names* names) {
    if (out_.registers.size() + function.registers.size() > kMostRegisters)
      unsupported(function.line, "kernel " + kernel_.name + " has too many registers with its calls inlined");
    for (const Register& declared : function.registers) {
      (*names)[declared.name] = declared.name + suffix;
      out_.registers.push_back({declared.name + suffix, declared.type});
    }
    for (const Kernel::Label& label : function.labels) (*names)[label.name] = label.name + suffix;
    const bool first = declared_.insert(&function).second;
    for (const Variable& declared : function.variables) {
      Variable variable = declared;
      variable.name += "@" + function.name;
      (*names)[declared.name] = variable.name;
      if (!first) continue;
      out_.variables.push_back(std::move(variable));
      keep_param(out_.variables.size() - 1);
    }
  }

  const Kernel& kernel_;
  Kernel out_;
  std::unordered_map<std::string, const Kernel*> functions_;
  std::unordered_set<std::string> kernel_names_;
  std::unordered_map<std::string, size_t> params_;  // .param variables of bodies: where in out_.variables
  std::unordered_set<const Kernel*> declared_;      // functions whose variables the kernel has
  std::vector<const Kernel*> open_;                 // the functions that are being expanded, outermost first
  int sites_ = 0;
};

}  // namespace

Kernel inline_calls(const Module& module, const Kernel& kernel) { return Inliner(module, kernel).run(); }

}  // namespace gpusim

// The body of a kernel or device function: its declarations, labels and statements.
#include <unordered_map>
#include <unordered_set>

#include "ptx/parser.h"
#include "ptx/reader.h"

namespace gpusim {
namespace {

constexpr int kDeepestNesting = 64;

class BodyParser : Reader {
 public:
  explicit BodyParser(const Kernel& head) : Reader(head.body, head.body_line), kernel_(head), scopes_(1) {}

  Kernel run() {
    body();
    return std::move(kernel_);
  }

 private:
  // Statements up to the closing brace. Inner blocks declare names of their own, also labels (ISA 4.3.2).
  void body() {
    if (scopes_.size() > kDeepestNesting) fail("blocks are nested too deeply");
    const size_t first_statement = kernel_.code.size();
    while (!accept('}')) {
      if (token_.kind == Token::Kind::end) fail("a body without end");
      if (accept('{')) {
        scopes_.emplace_back();
        body();
        continue;
      }
      if (token_.is(".reg")) {
        registers();
      } else if (token_.is(".shared") || token_.is(".local") || token_.is(".const") || token_.is(".global") ||
                 token_.is(".param")) {
        const size_t before = kernel_.variables.size();
        variables(&kernel_.variables, false);
        for (size_t i = before; i < kernel_.variables.size(); i++)
          kernel_.variables[i].name = declare(kernel_.variables[i].name);
      } else if (token_.is(".loc") || token_.is(".pragma")) {
        debugging();
      } else if (token_.is(".callprototype") || token_.is(".calltargets")) {
        unsupported(token_.text + ": indirect calls are not implemented");
      } else {
        statement();
      }
    }
    // A label may be used before its line, so names of labels are looked up when the scope is complete.
    const auto& names = scopes_.back();
    if (scopes_.size() > 1)
      for (size_t i = first_statement; i < kernel_.code.size(); i++)
        for (Operand& operand : kernel_.code[i].operands)
          if (operand.kind == Operand::Kind::name) {
            const auto found = names.find(operand.name);
            if (found != names.end()) operand.name = found->second;
          }
    scopes_.pop_back();
  }

  std::string declare(const std::string& name) {
    auto& scope = scopes_.back();
    std::string unique = scopes_.size() == 1 ? name : name + "#" + std::to_string(++scope_count_);
    if (!scope.emplace(name, unique).second) fail("'" + name + "' is declared twice");
    return unique;
  }

  std::string resolve(const std::string& name) const {
    for (size_t i = scopes_.size(); i-- > 0;) {
      const auto found = scopes_[i].find(name);
      if (found != scopes_[i].end()) return found->second;
    }
    return name;
  }

  void registers() {
    advance();
    const std::string directive = word();
    const Type type = directive[0] == '.' ? parse_type(directive.substr(1)) : Type();
    if (type.kind == Type::Kind::none) unsupported("registers of type " + directive);
    do {
      const std::string name = word();
      if (accept('<')) {
        const uint64_t count = integer();
        expect('>');
        if (count > kMostRegisters) fail("too many registers");
        for (uint64_t i = 0; i < count; i++) add_register(name + std::to_string(i), type);
      } else {
        add_register(name, type);
      }
    } while (accept(','));
    expect(';');
  }

  void add_register(const std::string& name, Type type) {
    if (kernel_.registers.size() >= kMostRegisters) fail("too many registers");
    kernel_.registers.push_back({declare(name), type});
    register_names_.insert(kernel_.registers.back().name);
  }

  void statement() {
    Statement statement;
    statement.line = token_.line;
    if (accept('@')) {
      statement.guard_negated = accept('!');
      statement.guard = resolve(word());
    }
    const std::string name = word();
    if (statement.guard.empty() && accept(':')) {
      if (name[0] == '.' || name[0] == '%') fail("malformed label " + name);
      kernel_.labels.push_back({declare(name), static_cast<uint32_t>(kernel_.code.size())});
      return;
    }
    if (name[0] == '.' || name[0] == '%') fail("unknown directive '" + name + "'");
    statement.opcode = name;
    statement.parts = split_at_dots(name);
    statement.base = statement.parts[0];
    statement.parts.erase(statement.parts.begin());
    if (statement.base == "call") call_operands(&statement);
    while (!accept(';')) {
      statement.operands.push_back(operand(0));
      if (!accept(',') && !token_.is(';')) fail("expected ',' or ';', found '" + token_.text + "'");
    }
    kernel_.code.push_back(std::move(statement));
  }

  // ISA 9.7.12.4: (result), function, (arguments), of which the function alone is always there. Three operands, the
  // lists as vectors; a fourth is the prototype of an indirect call.
  void call_operands(Statement* statement) {
    const auto list = [&] {
      Operand result;
      result.kind = Operand::Kind::vector;
      if (!accept('(')) return result;
      while (!accept(')')) {
        result.items.push_back(operand(1));
        if (!accept(',') && !token_.is(')')) fail("expected ',' or ')'");
      }
      return result;
    };
    const bool has_result = token_.is('(');
    statement->operands.push_back(list());
    if (has_result) expect(',');
    statement->operands.push_back(operand(0));
    if (!token_.is(';')) expect(',');
    statement->operands.push_back(list());
    if (!token_.is(';')) accept(',');
  }

  Operand operand(int depth) {
    if (depth > 3) fail("operands are nested too deeply");
    Operand result;
    if (accept('{')) {
      result.kind = Operand::Kind::vector;
      while (!accept('}')) {
        result.items.push_back(operand(depth + 1));
        if (!accept(',') && !token_.is('}')) fail("expected ',' or '}'");
      }
      return result;
    }
    if (accept('[')) return address(depth);
    if (accept('!')) {
      result = operand(depth + 1);
      result.negated = true;
      return result;
    }
    if (token_.kind != Token::Kind::word) return immediate();
    const std::string name = word();
    if (name == "WARP_SZ") {
      result.kind = Operand::Kind::immediate;
      result.value = 32;
    } else if (name == "_") {
      result.kind = Operand::Kind::sink;
    } else {
      result.name = resolve(name);
      result.kind = is_register(result.name) ? Operand::Kind::reg : Operand::Kind::name;
      if (result.kind == Operand::Kind::name && accept('+')) result.value = static_cast<int64_t>(integer());
    }
    if (accept('|')) result.second.push_back(operand(depth + 1));
    return result;
  }

  // Registers of inline assembly need no percent sign. Labels and variables are names.
  bool is_register(const std::string& name) const { return name[0] == '%' || register_names_.count(name) != 0; }

  // [base], [base+4], [4], [base, {x, y}]  (ISA 6.4.1)
  Operand address(int depth) {
    Operand result;
    result.kind = Operand::Kind::address;
    if (token_.kind == Token::Kind::word) result.name = resolve(word());
    while (!token_.is(']') && !token_.is(',')) {
      const bool negative = accept('-');
      if (!negative && !result.name.empty() && !accept('+')) fail("malformed address");
      if (!negative && token_.is('-')) continue;
      const auto value = static_cast<int64_t>(integer());
      result.value += negative ? -value : value;
      if (result.name.empty()) break;
    }
    if (accept(',')) {
      const Operand coordinates = operand(depth + 1);
      if (coordinates.kind != Operand::Kind::vector) fail("expected coordinates");
      result.items = coordinates.items;
      if (accept(',')) unsupported("a tensor address with im2col offsets");
    }
    expect(']');
    return result;
  }

  Kernel kernel_;
  std::vector<std::unordered_map<std::string, std::string>> scopes_;
  std::unordered_set<std::string> register_names_;
  int scope_count_ = 0;
};

}  // namespace

Kernel parse_body(const Kernel& head) { return BodyParser(head).run(); }

}  // namespace gpusim

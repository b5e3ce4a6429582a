#include "ptx/parser.h"

#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include "ptx/lexer.h"

namespace gpusim {
namespace {

constexpr uint64_t kLargestVariable = uint64_t{1} << 32;
constexpr int kDeepestNesting = 64;

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (char c : text) {
    if (c == separator)
      parts.emplace_back();
    else
      parts.back() += c;
  }
  return parts;
}

class Parser {
 public:
  explicit Parser(std::string_view text) : lexer_(text) { advance(); }

  Module module() {
    while (token_.kind != Token::Kind::end) top_level();
    if (out_.target == 0) fail("the module has no .target");
    return std::move(out_);
  }

 private:
  [[noreturn]] void fail(const std::string& text) const {
    throw ModuleError(ModuleError::Kind::syntax, token_.line, text);
  }
  [[noreturn]] void unsupported(const std::string& text) const {
    throw ModuleError(ModuleError::Kind::unsupported, token_.line, text);
  }
  void advance() { token_ = lexer_.next(); }
  bool accept(char c) {
    if (!token_.is(c)) return false;
    advance();
    return true;
  }
  bool accept(const char* word) {
    if (!token_.is(std::string_view(word))) return false;
    advance();
    return true;
  }
  void expect(char c) {
    if (!accept(c)) fail(std::string("expected '") + c + "', found '" + token_.text + "'");
  }
  std::string word() {
    if (token_.kind != Token::Kind::word) fail("expected a name, found '" + token_.text + "'");
    std::string text = token_.text;
    advance();
    return text;
  }
  uint64_t integer() {
    if (token_.kind != Token::Kind::integer) fail("expected an integer, found '" + token_.text + "'");
    const uint64_t value = token_.bits;
    advance();
    return value;
  }
  void skip_to(char c) {
    while (token_.kind != Token::Kind::end && !token_.is(c)) advance();
    expect(c);
  }

  void top_level() {
    if (accept(".version")) {
      const Token number = token_;
      advance();
      const auto parts = split(number.text, '.');
      if (number.kind != Token::Kind::decimal || parts.size() != 2) fail("malformed .version");
      out_.version_major = std::atoi(parts[0].c_str());
      out_.version_minor = std::atoi(parts[1].c_str());
      if (out_.version_major < 6 || out_.version_major > 9) unsupported(".version " + number.text);
    } else if (accept(".target")) {
      target();
    } else if (accept(".address_size")) {
      if (integer() != 64) unsupported("only .address_size 64");
    } else if (token_.is(".file") || token_.is(".section") || token_.is(".pragma")) {
      debugging();
    } else {
      declaration();
    }
  }

  void target() {
    const std::string name = word();
    if (name.compare(0, 3, "sm_") != 0) fail("malformed .target " + name);
    out_.target = std::atoi(name.c_str() + 3);
    out_.arch_specific = name.back() == 'a' || name.back() == 'f';
    while (accept(',')) word();
  }

  void debugging() {
    if (accept(".section")) {
      skip_to('{');
      skip_to('}');
    } else if (accept(".pragma")) {
      skip_to(';');
    } else {
      const int line = token_.line;
      while (token_.kind != Token::Kind::end && token_.line == line) advance();
    }
  }

  void declaration() {
    bool external = false;
    while (true) {
      if (token_.is(".visible") || token_.is(".weak") || token_.is(".common"))
        advance();
      else if (accept(".extern"))
        external = true;
      else
        break;
    }
    if (accept(".entry")) return entry();
    if (accept(".func")) return function();
    if (token_.is(".global") || token_.is(".const") || token_.is(".shared")) {
      variables(&out_.variables, external);
      return;
    }
    fail("unknown directive '" + token_.text + "'");
  }

  Space space(const std::string& directive) const {
    if (directive == ".global") return Space::global;
    if (directive == ".const") return Space::constant;
    if (directive == ".shared") return Space::shared;
    if (directive == ".local") return Space::local;
    if (directive == ".param") return Space::param;
    fail("unknown state space " + directive);
  }

  // ISA 5.4: .space .align N .type name[dims] = initialiser, ...
  void variables(std::vector<Variable>* list, bool external) {
    Variable first;
    first.space = space(word());
    first.external = external;
    attributes(&first);
    do {
      Variable variable = first;
      declarator(&variable);
      if (accept('=')) initialiser(&variable);
      list->push_back(std::move(variable));
    } while (accept(','));
    expect(';');
  }

  void attributes(Variable* variable) {
    variable->line = token_.line;
    bool pointer = false;
    while (token_.kind == Token::Kind::word && token_.text[0] == '.') {
      const std::string directive = word();
      if (directive == ".align") {
        // After .ptr it is the alignment of what the pointer points at (ISA 5.4.7 for kernel parameters).
        const uint64_t align = integer();
        if (align == 0 || align > 65536 || (align & (align - 1)) != 0) fail("malformed .align");
        if (!pointer) variable->align = static_cast<int>(align);
      } else if (directive == ".ptr") {
        pointer = true;
      } else if (pointer &&
                 (directive == ".global" || directive == ".shared" || directive == ".const" || directive == ".local")) {
        continue;
      } else {
        const Type type = parse_type(directive.substr(1));
        if (type.kind == Type::Kind::none) unsupported("'" + directive + "' in a declaration");
        variable->type = type;
        if (variable->align < type.bytes()) variable->align = type.bytes();
      }
    }
    if (variable->type.kind == Type::Kind::none) fail("a declaration without type");
  }

  void declarator(Variable* variable) {
    variable->name = word();
    variable->bytes = variable->type.bytes();
    bool unsized = false;
    uint64_t count = 1;
    while (accept('[')) {
      if (accept(']')) {
        unsized = true;
        continue;
      }
      const uint64_t dimension = integer();
      if (dimension > kLargestVariable || count * dimension > kLargestVariable) fail("a variable is too large");
      count *= dimension;
      expect(']');
    }
    variable->bytes = unsized ? 0 : variable->bytes * count;
    if (unsized && !(variable->external && variable->space == Space::shared))
      unsupported("an unsized array that is not .extern .shared");
  }

  void initialiser(Variable* variable) {
    if (variable->space != Space::global && variable->space != Space::constant)
      fail("an initialiser is not allowed here");
    if (variable->bytes > (uint64_t{1} << 28)) fail("an initialised variable is too large");
    variable->content.assign(variable->bytes, 0);
    uint64_t offset = 0;
    if (!accept('{')) {
      element(variable, &offset);
      return;
    }
    int depth = 1;
    while (depth > 0) {
      if (accept('{')) {
        depth++;
      } else if (accept('}')) {
        depth--;
        if (depth > 0) accept(',');
      } else {
        element(variable, &offset);
        accept(',');
      }
    }
  }

  void element(Variable* variable, uint64_t* offset) {
    const uint64_t bytes = variable->type.bytes();
    if (*offset + bytes > variable->content.size()) fail("too many initialisers");
    const bool generic = accept("generic");
    if (generic) expect('(');
    if (token_.kind == Token::Kind::word) {
      if (bytes != 8) unsupported("the address of a variable in less than 64 bits");
      Variable::Address address{*offset, word(), 0};
      if (accept('+')) address.addend = static_cast<int64_t>(integer());
      variable->addresses.push_back(std::move(address));
    } else {
      const Operand number = immediate();
      uint64_t bits = static_cast<uint64_t>(number.value);
      if (variable->type.kind == Type::Kind::f) {
        const float single = static_cast<float>(number.number);
        if (bytes == 4) std::memcpy(&bits, &single, 4);
        if (bytes == 8) std::memcpy(&bits, &number.number, 8);
      }
      std::memcpy(&variable->content[*offset], &bits, bytes);
    }
    if (generic) expect(')');
    *offset += bytes;
  }

  void entry() {
    kernel_ = Kernel();
    kernel_.line = token_.line;
    kernel_.name = word();
    parameters();
    performance_directives();
    if (accept(';')) return;  // a declaration only
    outer_body();
    out_.kernels.push_back(std::move(kernel_));
  }

  // ISA 11.1.2: .func (result) name (parameters) directives, then a body or, for a declaration, a semicolon.
  void function() {
    kernel_ = Kernel();
    parameters();
    kernel_.results = std::move(kernel_.params);
    kernel_.params.clear();
    kernel_.line = token_.line;
    kernel_.name = word();
    parameters();
    while (accept(".noreturn") || token_.is(".pragma"))
      if (token_.is(".pragma")) debugging();
    if (accept(';')) return;
    outer_body();
    out_.functions.push_back(std::move(kernel_));
  }

  void parameters() {
    kernel_.param_bytes = 0;
    kernel_.param_offsets.clear();
    if (!accept('(')) return;
    while (!token_.is(')')) {
      Variable param;
      if (token_.is(".reg")) unsupported("a parameter of a device function in a register");
      if (word() != ".param") fail("expected .param");
      param.space = Space::param;
      attributes(&param);
      declarator(&param);
      const uint64_t align = param.align;
      const uint64_t offset = (kernel_.param_bytes + align - 1) / align * align;
      if (offset + param.bytes > 32764) fail("more than 32764 bytes of parameters");
      kernel_.param_offsets.push_back(static_cast<uint32_t>(offset));
      kernel_.param_bytes = static_cast<uint32_t>(offset + param.bytes);
      kernel_.params.push_back(std::move(param));
      if (!accept(',')) break;
    }
    expect(')');
  }

  void outer_body() {
    scopes_.assign(1, {});
    scope_count_ = 0;
    register_names_.clear();
    expect('{');
    body();
  }

  // ISA 11.4: limits that the launch must respect.
  void performance_directives() {
    const auto extents = [&](uint32_t* extent) {
      for (int i = 0; i < 3; i++) extent[i] = 1;
      int i = 0;
      do {
        const uint64_t value = integer();
        if (i >= 3 || value == 0 || value > 1024) fail("malformed extent");
        extent[i++] = static_cast<uint32_t>(value);
      } while (accept(','));
    };
    while (token_.kind == Token::Kind::word && token_.text[0] == '.') {
      if (accept(".reqntid")) {
        extents(kernel_.required);
      } else if (accept(".maxntid")) {
        extents(kernel_.maximum);
      } else if (accept(".maxnreg")) {
        kernel_.max_registers = static_cast<uint32_t>(integer());
      } else if (accept(".minnctapersm") || accept(".maxclusterrank")) {
        integer();
      } else if (token_.is(".pragma")) {
        debugging();
      } else {
        unsupported("'" + token_.text + "' at an entry");
      }
    }
  }

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
    statement.parts = split(name, '.');
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

  Operand immediate() {
    Operand result;
    result.kind = Operand::Kind::immediate;
    const bool negative = accept('-');
    if (!negative) accept('+');
    switch (token_.kind) {
      case Token::Kind::integer:
        result.value = static_cast<int64_t>(negative ? 0 - token_.bits : token_.bits);
        result.number = negative ? -static_cast<double>(token_.bits) : static_cast<double>(token_.bits);
        break;
      case Token::Kind::f32: {
        result.literal = Operand::Literal::f32;
        const auto bits = static_cast<uint32_t>(token_.bits) ^ (negative ? 0x80000000u : 0);
        float value;
        std::memcpy(&value, &bits, 4);
        result.number = value;
        result.value = bits;
        break;
      }
      case Token::Kind::f64:
      case Token::Kind::decimal:
        result.literal = token_.kind == Token::Kind::f64 ? Operand::Literal::f64 : Operand::Literal::decimal;
        token_.bits ^= negative ? uint64_t{1} << 63 : 0;
        std::memcpy(&result.number, &token_.bits, 8);
        result.value = static_cast<int64_t>(token_.bits);
        break;
      default: fail("expected an operand, found '" + token_.text + "'");
    }
    advance();
    return result;
  }

  Lexer lexer_;
  Token token_;
  Module out_;
  Kernel kernel_;
  std::vector<std::unordered_map<std::string, std::string>> scopes_;
  std::unordered_set<std::string> register_names_;
  int scope_count_ = 0;
};

}  // namespace

Type parse_type(const std::string& word) {
  using Kind = Type::Kind;
  using Types = std::unordered_map<std::string, Type>;
  static const Types& types = *new Types{
      {"u8", {Kind::u, 8}},        {"u16", {Kind::u, 16}},        {"u32", {Kind::u, 32}},   {"u64", {Kind::u, 64}},
      {"s8", {Kind::s, 8}},        {"s16", {Kind::s, 16}},        {"s32", {Kind::s, 32}},   {"s64", {Kind::s, 64}},
      {"b8", {Kind::b, 8}},        {"b16", {Kind::b, 16}},        {"b32", {Kind::b, 32}},   {"b64", {Kind::b, 64}},
      {"f16", {Kind::f, 16}},      {"f32", {Kind::f, 32}},        {"f64", {Kind::f, 64}},   {"bf16", {Kind::bf, 16}},
      {"f16x2", {Kind::f, 16, 2}}, {"bf16x2", {Kind::bf, 16, 2}}, {"tf32", {Kind::tf, 32}}, {"pred", {Kind::pred, 1}}};
  const auto found = types.find(word);
  return found == types.end() ? Type() : found->second;
}

Module parse_ptx(std::string_view text) { return Parser(text).module(); }

}  // namespace gpusim

#include "ptx/reader.h"

#include <cstring>

namespace gpusim {
namespace {

constexpr uint64_t kLargestVariable = uint64_t{1} << 32;

}  // namespace

std::vector<std::string> split_at_dots(const std::string& text) {
  std::vector<std::string> parts(1);
  for (char c : text) {
    if (c == '.')
      parts.emplace_back();
    else
      parts.back() += c;
  }
  return parts;
}

void Reader::fail(const std::string& text) const { throw ModuleError(ModuleError::Kind::syntax, token_.line, text); }

void Reader::unsupported(const std::string& text) const {
  throw ModuleError(ModuleError::Kind::unsupported, token_.line, text);
}

bool Reader::accept(char c) {
  if (!token_.is(c)) return false;
  advance();
  return true;
}

bool Reader::accept(const char* word) {
  if (!token_.is(std::string_view(word))) return false;
  advance();
  return true;
}

void Reader::expect(char c) {
  if (!accept(c)) fail(std::string("expected '") + c + "', found '" + token_.text + "'");
}

std::string Reader::word() {
  if (token_.kind != Token::Kind::word) fail("expected a name, found '" + token_.text + "'");
  std::string text = token_.text;
  advance();
  return text;
}

uint64_t Reader::integer() {
  if (token_.kind != Token::Kind::integer) fail("expected an integer, found '" + token_.text + "'");
  const uint64_t value = token_.bits;
  advance();
  return value;
}

void Reader::skip_to(char c) {
  while (token_.kind != Token::Kind::end && !token_.is(c)) advance();
  expect(c);
}

Space Reader::space(const std::string& directive) const {
  if (directive == ".global") return Space::global;
  if (directive == ".const") return Space::constant;
  if (directive == ".shared") return Space::shared;
  if (directive == ".local") return Space::local;
  if (directive == ".param") return Space::param;
  fail("unknown state space " + directive);
}

void Reader::variables(std::vector<Variable>* list, bool external) {
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

void Reader::attributes(Variable* variable) {
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

void Reader::declarator(Variable* variable) {
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

void Reader::initialiser(Variable* variable) {
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

void Reader::element(Variable* variable, uint64_t* offset) {
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

void Reader::debugging() {
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

Operand Reader::immediate() {
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

}  // namespace gpusim

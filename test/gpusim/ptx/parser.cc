#include "ptx/parser.h"

#include <unordered_map>

#include "ptx/reader.h"

namespace gpusim {
namespace {

class ModuleParser : Reader {
 public:
  explicit ModuleParser(std::string_view text) : Reader(text, 1), text_(text) {}

  Module run() {
    while (token_.kind != Token::Kind::end) top_level();
    if (out_.target == 0) fail("the module has no .target");
    return std::move(out_);
  }

 private:
  void top_level() {
    if (accept(".version")) {
      const Token number = token_;
      advance();
      const auto parts = split_at_dots(number.text);
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

  void entry() {
    kernel_ = Kernel();
    kernel_.line = token_.line;
    kernel_.name = word();
    parameters();
    performance_directives();
    if (accept(';')) return;  // a declaration only
    find_body();
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
    find_body();
    out_.functions.push_back(parse_body(kernel_));
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
      } else if (accept(".maxnreg") || accept(".minnctapersm") || accept(".maxclusterrank")) {
        integer();
      } else if (token_.is(".pragma")) {
        debugging();
      } else {
        unsupported("'" + token_.text + "' at an entry");
      }
    }
  }

  // Where it is in the text, and from which line on.
  void find_body() {
    if (!token_.is('{')) expect('{');
    const size_t start = lexer_.position();
    kernel_.body_line = lexer_.line();
    for (int depth = 1; depth > 0;) {
      advance();
      if (token_.kind == Token::Kind::end) fail("a body without end");
      depth += token_.is('{') ? 1 : token_.is('}') ? -1 : 0;
    }
    kernel_.body = text_.substr(start, lexer_.position() - start);
    advance();
  }

  const std::string_view text_;
  Module out_;
  Kernel kernel_;
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

Module parse_ptx(std::string_view text) { return ModuleParser(text).run(); }

}  // namespace gpusim

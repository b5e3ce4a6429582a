#include "ptx/lexer.h"

#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace gpusim {
namespace {

bool starts_word(char c) { return std::isalpha(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%'; }
bool in_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '.'; }

}  // namespace

void Lexer::skip_blank() {
  while (position_ < text_.size()) {
    const char c = at(0);
    if (c == '\n') line_++;
    if (std::isspace(static_cast<unsigned char>(c))) {
      position_++;
    } else if (c == '/' && at(1) == '/') {
      while (position_ < text_.size() && at(0) != '\n') position_++;
    } else if (c == '/' && at(1) == '*') {
      const size_t end = text_.find("*/", position_ + 2);
      if (end == std::string_view::npos) throw ModuleError(ModuleError::Kind::syntax, line_, "comment without end");
      for (; position_ < end; position_++) line_ += at(0) == '\n';
      position_ = end + 2;
    } else {
      return;
    }
  }
}

Token Lexer::next() {
  skip_blank();
  Token token;
  token.line = line_;
  if (position_ >= text_.size() || at(0) == '\0') return token;
  const char c = at(0);
  if (std::isdigit(static_cast<unsigned char>(c))) return number(token);
  const size_t start = position_;
  if (starts_word(c) || (c == '.' && starts_word(at(1)))) {
    position_++;
    // shared::cta is one word, but the colon of a label is not part of it; .reg.b16 are two directives.
    while (!(c == '.' && at(0) == '.') && (in_word(at(0)) || (at(0) == ':' && at(1) == ':' && starts_word(at(2)))))
      position_ += at(0) == ':' ? 2 : 1;
    token.kind = Token::Kind::word;
  } else if (c == '"') {
    position_++;
    while (position_ < text_.size() && at(0) != '"' && at(0) != '\n') position_++;
    if (at(0) != '"') throw ModuleError(ModuleError::Kind::syntax, line_, "string without end");
    position_++;
    token.kind = Token::Kind::string;
  } else {
    position_++;
    token.kind = Token::Kind::punctuation;
  }
  token.text = std::string(text_.substr(start, position_ - start));
  return token;
}

// ISA 4.5: 0f and 0d start the bits of a float32 and a float64 in hexadecimal; a trailing U changes nothing here.
Token Lexer::number(Token token) {
  const size_t start = position_;
  const auto hex_float = [&](int digits, Token::Kind kind) {
    token.kind = kind;
    token.text = std::string(text_.substr(start + 2, digits));
    position_ = start + 2 + token.text.size();
    if (static_cast<int>(token.text.size()) != digits ||
        token.text.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos)
      throw ModuleError(ModuleError::Kind::syntax, line_, "malformed floating-point constant");
    token.bits = std::strtoull(token.text.c_str(), nullptr, 16);
    return token;
  };
  if (at(0) == '0' && (at(1) == 'f' || at(1) == 'F')) return hex_float(8, Token::Kind::f32);
  if (at(0) == '0' && (at(1) == 'd' || at(1) == 'D')) return hex_float(16, Token::Kind::f64);
  int radix = 10;
  if (at(0) == '0' && (at(1) == 'x' || at(1) == 'X')) radix = 16;
  if (at(0) == '0' && (at(1) == 'b' || at(1) == 'B')) radix = 2;
  if (radix != 10) position_ += 2;
  bool decimal = false;
  while (std::isxdigit(static_cast<unsigned char>(at(0))) || (radix == 10 && at(0) == '.') ||
         (radix == 10 && (at(0) == '+' || at(0) == '-') && (at(-1) == 'e' || at(-1) == 'E'))) {
    decimal |= radix == 10 && (at(0) == '.' || at(0) == 'e' || at(0) == 'E');
    position_++;
  }
  token.text = std::string(text_.substr(start, position_ - start));
  if (at(0) == 'U') position_++;
  if (decimal) {
    const double value = std::strtod(token.text.c_str(), nullptr);
    std::memcpy(&token.bits, &value, 8);
    token.kind = Token::Kind::decimal;
    return token;
  }
  if (radix == 10 && token.text.size() > 1 && token.text[0] == '0') radix = 8;
  errno = 0;
  token.bits = std::strtoull(token.text.c_str() + (radix == 16 || radix == 2 ? 2 : 0), nullptr, radix);
  if (errno == ERANGE)
    throw ModuleError(ModuleError::Kind::syntax, line_, "an integer of more than 64 bits: " + token.text);
  token.kind = Token::Kind::integer;
  return token;
}

}  // namespace gpusim

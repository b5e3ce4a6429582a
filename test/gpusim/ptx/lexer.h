// Words, numbers and punctuation of PTX (ISA section 4.2-4.5). A word keeps its dots and double colons, so that an
// opcode with all its modifiers, a directive and a special register are one token each.
#pragma once

#include <string>
#include <string_view>

#include "ptx/module.h"

namespace gpusim {

struct Token {
  enum class Kind { end, word, integer, f32, f64, decimal, string, punctuation } kind = Kind::end;
  std::string text;
  uint64_t bits = 0;  // the value of a number: an integer, or the bits of a float32 or float64
  int line = 1;
  bool is(char c) const { return kind == Kind::punctuation && text[0] == c; }
  bool is(std::string_view word) const { return kind == Kind::word && text == word; }
};

class Lexer {
 public:
  explicit Lexer(std::string_view text, int line = 1) : text_(text), line_(line) {}
  Token next();
  /// Behind the last token.
  size_t position() const { return position_; }
  int line() const { return line_; }

 private:
  void skip_blank();
  Token number(Token token);
  char at(size_t ahead) const { return position_ + ahead < text_.size() ? text_[position_ + ahead] : '\0'; }

  std::string_view text_;
  size_t position_ = 0;
  int line_;
};

}  // namespace gpusim

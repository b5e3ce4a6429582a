// What a module and the body of a kernel have in common: tokens, declarations of variables and numbers. For the two parsers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "ptx/lexer.h"

namespace gpusim {

class Reader {
 protected:
  Reader(std::string_view text, int line) : lexer_(text, line) { advance(); }

  [[noreturn]] void fail(const std::string& text) const;
  [[noreturn]] void unsupported(const std::string& text) const;
  void advance() { token_ = lexer_.next(); }
  bool accept(char c);
  bool accept(const char* word);
  void expect(char c);
  std::string word();
  uint64_t integer();
  void skip_to(char c);

  /// .file, .section, .pragma, .loc: skipped.
  void debugging();
  Space space(const std::string& directive) const;
  /// ISA 5.4: .space .align N .type name[dims] = initialiser, ...
  void variables(std::vector<Variable>* list, bool external);
  void attributes(Variable* variable);
  void declarator(Variable* variable);
  Operand immediate();

  Lexer lexer_;
  Token token_;

 private:
  void initialiser(Variable* variable);
  void element(Variable* variable, uint64_t* offset);
};

/// The parts of `text` between dots.
std::vector<std::string> split_at_dots(const std::string& text);

}  // namespace gpusim

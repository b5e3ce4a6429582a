#include "tests/instruction.h"

namespace gpusim {
namespace {

std::string register_name(char kind, int number) {
  switch (kind) {
    case 'h': return "%h" + std::to_string(number);
    case 'f': return "%f" + std::to_string(number);
    case 'd': return "%rd" + std::to_string(number + 32);
    case 'g': return "%fd" + std::to_string(number);
    default: return "%r" + std::to_string(number + 32);
  }
}

std::string from_word(char kind, const std::string& to, const std::string& word) {
  if (kind == 'h') return "cvt.u16.u64 " + to + ", " + word + ";\n";
  if (kind == 'r') return "cvt.u32.u64 " + to + ", " + word + ";\n";
  if (kind == 'f') return "cvt.u32.u64 %r9, " + word + ";\nmov.b32 " + to + ", %r9;\n";
  return "mov.b64 " + to + ", " + word + ";\n";
}

std::string to_word(char kind, const std::string& from) {
  if (kind == 'h') return "cvt.u64.u16 %rd9, " + from + ";\n";
  if (kind == 'r') return "cvt.u64.u32 %rd9, " + from + ";\n";
  if (kind == 'f') return "mov.b32 %r9, " + from + ";\ncvt.u64.u32 %rd9, %r9;\n";
  return "mov.b64 %rd9, " + from + ";\n";
}

}  // namespace

Evaluation evaluate(const std::string& opcode, const std::string& registers,
                    const std::vector<std::vector<uint64_t>>& inputs, const std::string& tail) {
  const size_t count = inputs[0].size();
  std::string params = ".param .u64 out, .param .u32 count";
  std::string body =
      "ld.param.u32 %r0, [count];\nmov.u32 %r1, %ctaid.x;\nmov.u32 %r2, %ntid.x;\nmov.u32 %r3, %tid.x;\n"
      "mad.lo.u32 %r4, %r1, %r2, %r3;\nsetp.ge.u32 %p0, %r4, %r0;\n@%p0 exit;\nmul.wide.u32 %rd0, %r4, 8;\n";
  std::string operands = register_name(registers[0], 0);
  for (size_t i = 0; i < inputs.size(); i++) {
    const std::string name = "in" + std::to_string(i);
    params += ", .param .u64 " + name;
    body += "ld.param.u64 %rd1, [" + name + "];\nadd.u64 %rd1, %rd1, %rd0;\nld.global.u64 %rd2, [%rd1];\n";
    const std::string to = register_name(registers[i + 1], static_cast<int>(i) + 1);
    body += from_word(registers[i + 1], to, "%rd2");
    operands += ", " + to;
  }
  body += opcode + " " + operands + tail + ";\n" + to_word(registers[0], register_name(registers[0], 0));
  body += "ld.param.u64 %rd1, [out];\nadd.u64 %rd1, %rd1, %rd0;\nst.global.u64 [%rd1], %rd9;\n";
  std::vector<Buffer> buffers;
  for (const auto& values : inputs) buffers.push_back(Buffer::of(values));
  Buffer out = Buffer::unwritten(count * 8);
  std::vector<Arg> args = {&out, static_cast<uint32_t>(count)};
  for (Buffer& buffer : buffers) args.emplace_back(&buffer);
  Evaluation evaluation;
  const auto blocks = static_cast<unsigned>((count + 127) / 128);
  evaluation.outcome = run_kernel(kernel_text(params, body), "k", {blocks}, {128}, 0, args);
  evaluation.results = out.as<uint64_t>();
  return evaluation;
}

}  // namespace gpusim

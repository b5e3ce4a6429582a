#include "machine/assemble.h"

namespace gpusim {

const OpTable& op_table() {
  static const OpTable& table = *new OpTable([] {
    OpTable t;
    add_integer_ops(&t);
    add_bit_ops(&t);
    add_float_ops(&t);
    add_half_ops(&t);
    add_conversion_ops(&t);
    add_move_ops(&t);
    add_predicate_ops(&t);
    add_control_ops(&t);
    add_memory_ops(&t);
    add_atomic_ops(&t);
    add_collective_ops(&t);
    add_barrier_ops(&t);
    add_mbarrier_ops(&t);
    add_copy_ops(&t);
    add_matrix_ops(&t);
    add_bulk_ops(&t);
    add_wgmma_ops(&t);
    return t;
  }());
  return table;
}

Binder find_binder(const Statement& statement) {
  const OpTable& table = op_table();
  for (size_t i = statement.parts.size(); i-- > 0;) {
    const Type type = parse_type(statement.parts[i]);
    if (type.kind == Type::Kind::none) continue;
    const char* family = "/i";
    if (type.kind == Type::Kind::pred)
      family = "/p";
    else if (type.kind == Type::Kind::bf || (type.kind == Type::Kind::f && type.bits == 16))
      family = "/h";
    else if (type.kind == Type::Kind::f)
      family = "/f";
    const auto found = table.find(statement.base + family);
    if (found != table.end()) return found->second;
    break;
  }
  const auto found = table.find(statement.base);
  return found == table.end() ? nullptr : found->second;
}

const char* class_name(Class of) {
  static const char* const names[kClasses] = {
      "integer",    "floating",   "conversion",   "move",        "predicate",  "specialFunction",
      "control",    "barrier",    "loadGlobal",   "storeGlobal", "loadShared", "storeShared",
      "loadLocal",  "storeLocal", "loadConstant", "atomic",      "collective", "copyAsync",
      "matrixLoad", "mma",        "wgmma",        "other"};
  return names[static_cast<int>(of)];
}

}  // namespace gpusim

// What instructions on integers share: handlers for each type of operand, and the binders that choose them.
#pragma once

#include "ops/lanes.h"

namespace gpusim {

template <class T>
using Unsigned = std::make_unsigned_t<T>;

template <class Op>
struct Same2 {
  template <class T>
  struct Make {
    static constexpr Handler handler = binary<Op, T, T>;
  };
};
template <class Op>
struct Same1 {
  template <class T>
  struct Make {
    static constexpr Handler handler = unary<Op, T, T>;
  };
};
template <class Op>
struct Same3 {
  template <class T>
  struct Make {
    static constexpr Handler handler = ternary<Op, T, T>;
  };
};

inline void set(Binding& b, Handler handler, Type type) {
  if (handler == nullptr) b.unsupported("type of " + std::to_string(type.bits) + " bits");
  b.in.run = handler;
}

template <class Op, size_t sources, template <class> class Make>
void bind_same(Binding& b) {
  const Type type = b.take_type();
  set(b, for_integer<Make>(type), type);
  bind_operands(b, type, sources, Class::integer);
}

}  // namespace gpusim

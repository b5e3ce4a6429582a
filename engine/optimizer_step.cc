#include "engine/optimizer_step.h"

#include <cmath>

#include "engine/engine.h"

namespace marginfc {

SgdStep sgd_step(const Optimizer& optimizer, const WeightSink& sink) {
  return {static_cast<float>(sink.learning_rate), static_cast<float>(optimizer.momentum),
          static_cast<float>(optimizer.weight_decay), optimizer.nesterov};
}

AdamwStep adamw_step(const Optimizer& optimizer, const WeightSink& sink) {
  const auto t = static_cast<double>(sink.step);
  AdamwStep step;
  step.step_size = static_cast<float>(sink.learning_rate / (1 - std::pow(optimizer.beta1, t)));
  step.beta1 = static_cast<float>(optimizer.beta1);
  step.beta2 = static_cast<float>(optimizer.beta2);
  step.root_correction = static_cast<float>(1 / std::sqrt(1 - std::pow(optimizer.beta2, t)));
  step.epsilon = static_cast<float>(optimizer.epsilon);
  step.decay = static_cast<float>(1 - sink.learning_rate * optimizer.weight_decay);
  return step;
}

}  // namespace marginfc

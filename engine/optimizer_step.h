// One update of an optimiser, in the float32 constants that every engine's row kernels take: worked out in float64 and
// rounded once. Plain structs, also for CUDA kernels.
#pragma once

namespace marginfc {

struct Optimizer;
struct WeightSink;

// torch.optim.SGD.
struct SgdStep {
  float learning_rate;
  float momentum;
  float weight_decay;
  bool nesterov;
};

// torch.optim.AdamW.
struct AdamwStep {
  float step_size;  // learning rate / (1 - beta1^t)
  float beta1;
  float beta2;
  float root_correction;  // 1 / sqrt(1 - beta2^t)
  float epsilon;
  float decay;  // 1 - learning rate * weight decay
};

SgdStep sgd_step(const Optimizer& optimizer, const WeightSink& sink);
AdamwStep adamw_step(const Optimizer& optimizer, const WeightSink& sink);

}  // namespace marginfc

// What the calls of one class Evaluation share.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "binding/environment.h"
#include "binding/held_memory.h"
#include "engine/evaluation.h"
#include "engine/feature_terms.h"
#include "engine/head.h"

namespace marginfc::binding {

// The evaluation with everything it borrows. Shared by the JavaScript object and its calls in flight; the last of
// them frees it, on the main thread.
struct EvaluationState {
  explicit EvaluationState(Napi::Env env) : held(env) {}

  // Refuses memory that one of the shards' engines does not reach.
  void require_followed(Napi::Env env, Place place, const char* name) const {
    for (const ClassShard* shard : shards)
      if (!shard->follows(place))
        throw make_error(env, Status::failure(Code::type, std::string(name) + " must be in the host's memory"));
  }

  std::vector<std::shared_ptr<Engine>> engines;  // first, so that they go last; of borrowed weights
  std::shared_ptr<Engine> host;                  // of the features' terms, where there is no shard
  std::vector<int32_t> labels;                   // [rows], a checked copy: the caller's may be shared memory
  std::vector<float> features;                   // [rows, dim], only when the caller's are of 16 bits
  Batch batch;
  LossOptions options;
  int64_t classes = 0;
  ClassShape shape = 1;
  std::shared_ptr<EvaluationState> of;                // whose classes these are, if it is another's
  std::shared_ptr<Head> head;                         // owner of the classes, or
  std::vector<std::unique_ptr<ClassShard>> borrowed;  // shards of the caller's weights
  std::vector<ClassShard*> shards;                    // of either
  std::unique_ptr<Evaluation> evaluation;
  bool has_terms = false;
  std::unique_ptr<FeatureTerms> feature_terms;  // null without any
  Workspace workspace = Workspace::recompute;
  bool automatic = false;  // workspace 'auto'
  double tolerance = 0;
  // Which calls have succeeded: negatives, epilogue, reserve.
  bool summed = false, forwarded = false, reserved = false;
  std::atomic<int32_t> own_cancel{0};
  std::atomic<int32_t>* cancel = &own_cancel;
  int64_t workspace_bytes = 0;
  HeldMemory held;
  Napi::ObjectReference problem;  // keeps the arrays that it has
  Napi::ObjectReference cancel_array;
};

}  // namespace marginfc::binding

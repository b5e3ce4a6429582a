// What an evaluation over the classes of another one needs of them: rows, and a gradient that is kept where they are. Included by
// binding/evaluation_object.cc only.
#pragma once

#include <memory>
#include <utility>

#include "binding/arguments.h"
#include "binding/evaluation_state.h"
#include "binding/job.h"

namespace marginfc::binding {

class ClassRowsJob final : public Job {
 public:
  ClassRowsJob(std::shared_ptr<EvaluationState> state, const Napi::CallbackInfo& info) : state_(std::move(state)) {
    classes_ = int_array(info[1], "classes");
    const Span<float> rows = float_array(info[2], "rows");
    require_size(info.Env(), rows.size, classes_.size * state_->shape.size(), "rows");
    rows_ = rows.data;
    keep(info[1]);
    keep(info[2]);
  }

  Status run() override { return state_->evaluation->class_rows(classes_.data, classes_.size, rows_); }

 private:
  const std::shared_ptr<EvaluationState> state_;
  Span<int32_t> classes_;
  float* rows_;
};

class AddToKeptJob final : public Job {
 public:
  AddToKeptJob(std::shared_ptr<EvaluationState> state, const Napi::CallbackInfo& info) : state_(std::move(state)) {
    const Span<float> rows = float_array(info[1], "rows");
    require_size(info.Env(), rows.size, state_->batch.rows * state_->shape.size(), "rows");
    rows_ = rows.data;
    keep(info[1]);
  }

  Status run() override { return state_->evaluation->add_to_kept(rows_); }

 private:
  const std::shared_ptr<EvaluationState> state_;
  const float* rows_;
};

}  // namespace marginfc::binding

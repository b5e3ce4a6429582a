// Companion terms, from NativeTerms of src/native.ts and back.
#pragma once

#include <memory>

#include "binding/napi_setup.h"
#include "engine/evaluation.h"
#include "engine/feature_terms.h"

namespace marginfc::binding {

RowTerms read_row_terms(const Napi::Value& terms);
// Those of the features, null without any. `engine` finds triplets; centres stay borrowed.
std::unique_ptr<FeatureTerms> read_feature_terms(const Napi::Value& terms, const Batch& batch, Engine* engine);

// A NativeTermValues.
Napi::Object term_values(Napi::Env env, const RowTermValues& rows, const FeatureTermValues& features);

}  // namespace marginfc::binding

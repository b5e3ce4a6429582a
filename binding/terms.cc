#include "binding/terms.h"

#include "binding/arguments.h"

namespace marginfc::binding {
namespace {

// A term's options; empty where there is none.
Napi::Object term(const Napi::Value& terms, const char* kind) {
  if (!present(terms)) return {};
  if (!terms.IsObject()) throw make_error(terms.Env(), Status::failure(Code::type, "terms must be an object"));
  const Napi::Value value = terms.As<Napi::Object>().Get(kind);
  if (!present(value)) return {};
  if (!value.IsObject())
    throw make_error(terms.Env(), Status::failure(Code::type, std::string("terms.") + kind + " must be an object"));
  return value.As<Napi::Object>();
}

}  // namespace

RowTerms read_row_terms(const Napi::Value& terms) {
  RowTerms rows;
  if (const Napi::Object intra = term(terms, "intra"); !intra.IsEmpty()) rows.intra = number(intra, "weight");
  if (const Napi::Object ring = term(terms, "ring"); !ring.IsEmpty()) {
    rows.ring = number(ring, "weight");
    rows.radius = number(ring, "radius");
  }
  return rows;
}

std::unique_ptr<FeatureTerms> read_feature_terms(const Napi::Value& terms, const Batch& batch, Engine* engine) {
  FeatureTermOptions options;
  options.engine = engine;
  if (const Napi::Object center = term(terms, "center"); !center.IsEmpty()) {
    const Span<float> centers = float_array(center.Get("centers"), "centers");
    const auto start = static_cast<int64_t>(number(center, "start"));
    const int64_t count = centers.size / batch.dim;
    require_size(terms.Env(), centers.size, count * batch.dim, "centers");
    options.center = CenterTerm{number(center, "weight"), centers.data, {start, start + count}};
  }
  if (const Napi::Object triplet = term(terms, "triplet"); !triplet.IsEmpty())
    options.triplet = TripletTerm{
        number(triplet, "weight"),
        {number(triplet, "margin"), text(triplet, "mining") == "semihard",
         static_cast<int64_t>(number(triplet, "anchorStart")), static_cast<int64_t>(number(triplet, "anchorEnd"))}};
  if (!options.center && !options.triplet) return nullptr;
  return std::make_unique<FeatureTerms>(batch, options);
}

Napi::Object term_values(Napi::Env env, const RowTermValues& rows, const FeatureTermValues& features) {
  Napi::Object values = Napi::Object::New(env);
  values.Set("intra", rows.intra);
  values.Set("ring", rows.ring);
  values.Set("radius", rows.radius);
  values.Set("radiusGradient", rows.radius_gradient);
  values.Set("center", features.center);
  values.Set("triplet", features.triplet);
  return values;
}

}  // namespace marginfc::binding

#include "binding/group_object.h"

#include <cstring>

#include "binding/arguments.h"
#include "binding/environment.h"
#include "group/mpi.h"
#include "group/nccl.h"

namespace marginfc::binding {
namespace {

using group::Collective;
using group::Communicator;
using group::Element;
using group::Round;

class GroupJob : public Job {
 public:
  explicit GroupJob(std::shared_ptr<Communicator> communicator) : communicator_(std::move(communicator)) {}
  void cancel() override { communicator_->cancel(); }

 protected:
  const std::shared_ptr<Communicator> communicator_;
};

class OpenJob final : public GroupJob {
 public:
  using GroupJob::GroupJob;
  Status run() override { return communicator_->open(); }
  Napi::Value result(Napi::Env env) override {
    Napi::Object place = Napi::Object::New(env);
    place.Set("rank", communicator_->rank());
    place.Set("size", communicator_->size());
    return place;
  }
};

class CloseJob final : public GroupJob {
 public:
  using GroupJob::GroupJob;
  Status run() override { return communicator_->close(); }
};

class CollectiveJob final : public GroupJob {
 public:
  CollectiveJob(std::shared_ptr<Communicator> communicator, const Collective& collective)
      : GroupJob(std::move(communicator)), collective_(collective) {}
  Status run() override { return communicator_->run(collective_); }

 private:
  const Collective collective_;
};

struct Elements {
  void* start = nullptr;
  int64_t length = 0;
  Element element = Element::float32;
};

Elements elements(const Napi::Value& value, const char* name) {
  const Napi::Env env = value.Env();
  napi_typedarray_type type;
  size_t length = 0;
  Elements array;
  if (!value.IsTypedArray() ||
      napi_get_typedarray_info(env, value, &type, &length, &array.start, nullptr, nullptr) != napi_ok)
    throw make_error(env, Status::failure(Code::type, std::string(name) + " must be a typed array"));
  array.length = static_cast<int64_t>(length);
  switch (type) {
    case napi_float32_array: array.element = Element::float32; break;
    case napi_float64_array: array.element = Element::float64; break;
    case napi_int32_array: array.element = Element::int32; break;
    case napi_uint8_array: array.element = Element::uint8; break;
    default:
      throw make_error(env, Status::failure(Code::type, std::string(name) + " must be of a type that groups exchange"));
  }
  return array;
}

Round::Kind read_kind(const Napi::Value& value) {
  const std::string name = value.ToString().Utf8Value();
  for (const Round::Kind kind : {Round::Kind::all_gather, Round::Kind::all_reduce, Round::Kind::reduce_scatter,
                                 Round::Kind::broadcast, Round::Kind::barrier})
    if (name == group::name_of(kind)) return kind;
  throw make_error(value.Env(), Status::failure(Code::type, "there is no collective " + name));
}

group::NcclPlace nccl_place(const Napi::Object& options) {
  const Elements id = elements(options.Get("id"), "id");
  group::NcclPlace place;
  if (id.element != Element::uint8 || id.length != sizeof place.id)
    throw make_error(options.Env(), Status::failure(Code::type, "id must be a Uint8Array(128)"));
  std::memcpy(&place.id, id.start, sizeof place.id);
  place.rank = static_cast<int32_t>(number(options, "rank"));
  place.size = static_cast<int32_t>(number(options, "size"));
  place.device = static_cast<int32_t>(number(options, "device"));
  place.timeout = number(options, "timeout");
  return place;
}

Communicator::Open transport(const Napi::Object& options) {
  const std::string name = text(options, "transport");
  if (name == "mpi")
    return [shim = text(options, "library")](std::unique_ptr<group::Transport>* opened) {
      return group::open_mpi(shim, opened);
    };
  if (name == "nccl")
    return [place = nccl_place(options)](std::unique_ptr<group::Transport>* opened) {
      return group::open_nccl(place, opened);
    };
  throw make_error(options.Env(), Status::failure(Code::unavailable, "there is no transport " + name));
}

}  // namespace

void GroupObject::install(Napi::Env env, Napi::Object exports) {
  exports.Set("Group", DefineClass(env, "Group",
                                   {
                                       InstanceMethod<&GroupObject::open>("open"),
                                       InstanceMethod<&GroupObject::run>("run"),
                                       InstanceMethod<&GroupObject::close>("close"),
                                       InstanceMethod<&GroupObject::close_at_exit>("closeAtExit"),
                                   }));
}

GroupObject::GroupObject(const Napi::CallbackInfo& info)
    : ObjectWrap(info), queue_(Environment::of(info.Env()).add_queue()) {
  const Napi::Env env = info.Env();
  if (!info[0].IsObject()) throw make_error(env, Status::failure(Code::type, "options must be an object"));
  const auto options = info[0].As<Napi::Object>();
  communicator_ = std::make_shared<Communicator>(text(options, "transport"), transport(options),
                                                 number(options, "timeout"));
}

Napi::Value GroupObject::open(const Napi::CallbackInfo& info) {
  return queue_.enqueue(info.Env(), std::make_unique<OpenJob>(communicator_));
}

// (kind, { operation?, root? }, input?, output?)
Napi::Value GroupObject::run(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Collective collective;
  collective.kind = read_kind(info[0]);
  const auto options = info[1].ToObject();
  if (present(options.Get("operation")) && text(options, "operation") == "max")
    collective.reduction = group::Reduction::max;
  if (present(options.Get("root"))) collective.root = static_cast<int32_t>(number(options, "root"));
  if (collective.root < 0 || collective.root >= std::max(communicator_->size(), 1))
    throw make_error(env, Status::failure(Code::shape, "root must be a rank of the group"));
  const bool two = collective.kind == Round::Kind::all_gather || collective.kind == Round::Kind::reduce_scatter;
  if (two) {
    const Elements input = elements(info[2], "input");
    collective.input = input.start;
    collective.input_length = input.length;
    collective.element = input.element;
  }
  if (collective.kind != Round::Kind::barrier) {
    const Elements output = elements(info[3], "output");
    collective.output = output.start;
    collective.output_length = output.length;
    if (two && output.element != collective.element)
      throw make_error(env, Status::failure(Code::type, "both arrays must be of the same type"));
    collective.element = output.element;
  }
  auto job = std::make_unique<CollectiveJob>(communicator_, collective);
  job->keep(info[2]);
  job->keep(info[3]);
  return queue_.enqueue(env, std::move(job));
}

Napi::Value GroupObject::close(const Napi::CallbackInfo& info) {
  return queue_.enqueue(info.Env(), std::make_unique<CloseJob>(communicator_));
}

void GroupObject::close_at_exit(const Napi::CallbackInfo&) {
  // A call under way is given up: the launcher finds that this process has not left in order, and ends the others.
  if (queue_.idle()) (void)communicator_->close();
}

Napi::Value describe_mpi(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Object object = Napi::Object::New(env);
  std::string library;
  const Status status = group::describe_mpi(info[0].ToString().Utf8Value(), &library);
  if (status.ok())
    object.Set("library", library);
  else
    object.Set("missing", status.message);
  return object;
}

Napi::Value describe_nccl(const Napi::CallbackInfo& info) {
  Napi::Object object = Napi::Object::New(info.Env());
  const group::NcclLibrary& library = group::nccl_library();
  if (library.available())
    object.Set("version", group::nccl_version_text(library.version));
  else
    object.Set("missing", library.reason);
  return object;
}

Napi::Value nccl_missing(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Status status = group::check_nccl(info[0].ToNumber().Int32Value());
  return status.ok() ? env.Undefined() : Napi::String::New(env, status.message);
}

Napi::Value make_nccl_id(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  group::NcclId id;
  const Status status = group::make_nccl_id(&id);
  if (!status.ok()) throw make_error(env, status);
  Napi::Uint8Array bytes = Napi::Uint8Array::New(env, sizeof id);
  std::memcpy(bytes.Data(), &id, sizeof id);
  return bytes;
}

}  // namespace marginfc::binding

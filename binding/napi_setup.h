// The only header that includes napi.h. binding/ turns JavaScript values into engine.h's structs and back; it
// may include engine/ and group/, and of cpu/ and cuda/ the engine to make one; of cpu/ also the memory to return results in, and what
// measures the machine.
//
//   addon              what is exported
//   environment        the engines and job queues of one JavaScript environment
//   output_pool        memory of large results
//   job                a call's work, run at once or off the main thread
//   job_queue          a thread that runs jobs in order
//   held_memory        native memory that the garbage collector is told of
//   arguments          reading arguments, checked for what would read or write out of bounds
//   evaluation_object  class Evaluation
//   head_object        class Head
//   group_object       class Group
#pragma once

// A worker that is being terminated can neither be handed values nor be thrown at: without this, the attempt ends the
// whole process.
#define NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
#include <napi.h>

#include "engine/status.h"

namespace marginfc::binding {

// The failure of native code as the Error that src/errors.ts expects: message and `nativeCode`.
Napi::Error make_error(Napi::Env env, const Status& status);

}  // namespace marginfc::binding

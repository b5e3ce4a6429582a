// The transport of processes with a GPU each, over NCCL.
#pragma once

#include <memory>
#include <string>

#include "group/nccl_library.h"
#include "group/transport.h"

namespace marginfc::group {

struct NcclPlace {
  NcclId id;
  int32_t rank = 0;
  int32_t size = 1;
  int32_t device = 0;  // GPU of this process
  double timeout = 0;  // seconds that all ranks have to come, and to leave
};

// Whether `device` and NCCL can be used here; the failure says why not.
Status check_nccl(int32_t device);

// For one rank to make and all to use.
Status make_nccl_id(NcclId* id);

// Joins the ranks that have the same id; returns when each has, or the time is over.
Status open_nccl(const NcclPlace& place, std::unique_ptr<Transport>* transport);

}  // namespace marginfc::group

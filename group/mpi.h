// The transport of processes that mpirun (or a cluster's own launcher) started.
#pragma once

#include <memory>
#include <string>

#include "group/transport.h"

namespace marginfc::group {

// Joins all processes of the job; returns when each has called it. A process that no launcher started is a group of one.
// `shim` is the path of marginfc_mpi.so. MPI starts and ends once in a process, so a second call fails, from whichever
// thread, also after the group has been left.
Status open_mpi(const std::string& shim, std::unique_ptr<Transport>* transport);

// Name and version of the MPI library; a failure says what is missing and what to do about it. Does not start MPI.
Status describe_mpi(const std::string& shim, std::string* library);

}  // namespace marginfc::group

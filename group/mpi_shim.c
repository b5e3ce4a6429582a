/* The one file that includes mpi.h: see group/mpi_shim.h. Compiled with mpicc into marginfc_mpi.so, which group/mpi.cc
   opens at run time. One communicator and one collective at a time, all calls from one thread. */
#include "group/mpi_shim.h"

#include <mpi.h>
#include <stdio.h>
#include <string.h>

static MPI_Comm group = MPI_COMM_NULL;
static MPI_Request request = MPI_REQUEST_NULL;
static int started_here = 0;

static int failed(const char* call, int code, char* text) {
  char message[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  if (code == MPI_SUCCESS) return 0;
  if (MPI_Error_string(code, message, &length) != MPI_SUCCESS) message[0] = 0;
  snprintf(text, MARGINFC_MPI_TEXT_BYTES, "%s said %s (%d)", call, message, code);
  return 1;
}

static void library(char* text) {
  char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(version, &length);
  /* The first line, or up to the first comma, is the name; MPICH's goes on for pages. */
  version[strcspn(version, ",\n")] = 0;
  for (char* at = version; *at; at++)
    if (*at == '\t') *at = ' ';
  snprintf(text, MARGINFC_MPI_TEXT_BYTES, "%s", version);
}

/* Only one thread of this process calls MPI: funneled. Where the process has started MPI for other ends, its threads
   may call at the same time. */
static int open_group(int32_t* rank, int32_t* size, char* text) {
  int initialized = 0, finalized = 0, provided = 0, number = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  if (finalized) {
    snprintf(text, MARGINFC_MPI_TEXT_BYTES, "MPI has ended in this process, and cannot start again");
    return 1;
  }
  if (initialized) {
    MPI_Query_thread(&provided);
    if (provided < MPI_THREAD_MULTIPLE) {
      snprintf(text, MARGINFC_MPI_TEXT_BYTES, "MPI was started in this process without MPI_THREAD_MULTIPLE");
      return 1;
    }
  } else {
    if (failed("MPI_Init_thread", MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided), text)) return 1;
    started_here = 1;
    if (provided < MPI_THREAD_FUNNELED) {
      snprintf(text, MARGINFC_MPI_TEXT_BYTES, "this MPI was built without support for threads");
      return 1;
    }
  }
  /* Apart from other users of MPI_COMM_WORLD. */
  if (failed("MPI_Comm_dup", MPI_Comm_dup(MPI_COMM_WORLD, &group), text)) return 1;
  MPI_Comm_set_errhandler(group, MPI_ERRORS_RETURN);
  MPI_Comm_rank(group, &number);
  *rank = number;
  MPI_Comm_size(group, &number);
  *size = number;
  return 0;
}

static int start(const struct marginfc_mpi_round* round, char* text) {
  const MPI_Datatype types[] = {MPI_FLOAT, MPI_DOUBLE, MPI_INT32_T, MPI_UINT8_T};
  const MPI_Datatype type = types[round->element];
  const MPI_Op operation = round->reduction == 0 ? MPI_SUM : MPI_MAX;
  int rank = 0;
  MPI_Comm_rank(group, &rank);
  switch (round->kind) {
    case 0:
      return failed("MPI_Iallgatherv",
                    MPI_Iallgatherv(round->input, round->counts[rank], type, round->output, round->counts,
                                    round->offsets, type, group, &request),
                    text);
    case 1:
      return failed("MPI_Iallreduce",
                    MPI_Iallreduce(MPI_IN_PLACE, round->output, round->counts[0], type, operation, group, &request),
                    text);
    case 2:
      return failed("MPI_Ireduce_scatter",
                    MPI_Ireduce_scatter(round->input, round->output, round->counts, type, operation, group, &request),
                    text);
    case 3:
      return failed("MPI_Ibcast", MPI_Ibcast(round->output, round->counts[0], type, round->root, group, &request),
                    text);
    default: return failed("MPI_Ibarrier", MPI_Ibarrier(group, &request), text);
  }
}

static int poll_group(int32_t* done, char* text) {
  int complete = 0;
  if (failed("MPI_Test", MPI_Test(&request, &complete, MPI_STATUS_IGNORE), text)) return 1;
  *done = complete;
  return 0;
}

static int leave(char* text) {
  if (failed("MPI_Comm_free", MPI_Comm_free(&group), text)) return 1;
  return started_here ? failed("MPI_Finalize", MPI_Finalize(), text) : 0;
}

__attribute__((visibility("default"))) const struct marginfc_mpi_functions marginfc_mpi_functions = {
    MARGINFC_MPI_VERSION, library, open_group, start, poll_group, leave};

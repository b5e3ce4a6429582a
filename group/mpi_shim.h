/* What marginfc_mpi.so offers: a table of functions with none of MPI's own types, whose sizes and values differ between
   Open MPI and MPICH. So one addon serves both, and machines without either; only the shim, a few lines, is compiled where
   mpicc is. C, for both sides. */
#ifndef MARGINFC_GROUP_MPI_SHIM_H
#define MARGINFC_GROUP_MPI_SHIM_H

#include <stddef.h>
#include <stdint.h>

/* Changes when the table does: an older shim is refused. */
#define MARGINFC_MPI_VERSION 1
#define MARGINFC_MPI_SYMBOL "marginfc_mpi_functions"
#define MARGINFC_MPI_TEXT_BYTES 512

/* group/transport.h's Round; kind, element and reduction by the order of their names there. */
struct marginfc_mpi_round {
  int32_t kind, element, reduction, root;
  const int32_t*
      counts; /* as there; with `offsets`, where each part begins, stays valid until the collective is done */
  const int32_t* offsets;
  const void* input;
  void* output;
};

/* Those that return int return 0, or another number with a reason in `text` of MARGINFC_MPI_TEXT_BYTES. */
struct marginfc_mpi_functions {
  int32_t version;
  /* Name and version of the library, also before open(); into `text`. */
  void (*library)(char* text);
  int (*open)(int32_t* rank, int32_t* size, char* text);
  int (*start)(const struct marginfc_mpi_round* round, char* text);
  int (*poll)(int32_t* done, char* text);
  int (*leave)(char* text);
};

#endif

#include "group/mpi.h"

#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <vector>

#include "group/mpi_shim.h"

namespace marginfc::group {
namespace {

using Functions = marginfc_mpi_functions;

constexpr char kRemedy[] =
    "`sudo apt-get install libopenmpi-dev openmpi-bin` (or another MPI with mpicc), then `npm rebuild marginfc` (in a "
    "checkout `npm run build`)";
// A cache line.
constexpr size_t kAlignment = 64;

// Of the process, whichever thread or environment asks.
std::atomic<bool> claimed{false};

// The message of a failure is the reason alone.
Status load(const std::string& shim, const Functions** functions) {
  if (access(shim.c_str(), R_OK) != 0)
    return Status::failure(Code::unavailable, "this marginfc was built where there was no mpicc (there is no " + shim +
                                                  "). To build that part: " + kRemedy);
  // Global, so that components that Open MPI loads later find its symbols. Never closed: MPI's threads run on in it.
  void* library = dlopen(shim.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (!library) {
    const char* why = dlerror();
    return Status::failure(Code::unavailable,
                           std::string(why ? why : shim.c_str()) + ". If MPI was removed or replaced: " + kRemedy);
  }
  *functions = static_cast<const Functions*>(dlsym(library, MARGINFC_MPI_SYMBOL));
  if (!*functions || (*functions)->version != MARGINFC_MPI_VERSION)
    return Status::failure(Code::unavailable,
                           shim + " belongs to another version of marginfc. To build it again: `npm rebuild marginfc`");
  return {};
}

// How many processes a launcher says it started; 0 where none says.
int launched() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"})
    if (const char* text = std::getenv(name)) return std::atoi(text);
  return 0;
}

class MpiTransport final : public Transport {
 public:
  explicit MpiTransport(const Functions& functions) : functions_(functions) {}
  ~MpiTransport() override {
    if (abandoned_) return;
    for (void* memory : memory_) std::free(memory);
  }

  Status open() {
    MARGINFC_TRY(check(functions_.open(&rank_, &size_, text_), Code::unavailable, "MPI did not start: "));
    if (const int processes = launched(); processes > 1 && size_ == 1)
      return Status::failure(
          Code::unavailable,
          "mpirun started " + std::to_string(processes) +
              " processes, but the MPI that marginfc was built with sees one: mpirun belongs to another MPI than mpicc "
              "did. With that one's mpicc first on PATH: `npm rebuild marginfc`");
    void* offsets = nullptr;
    MARGINFC_TRY(allocate(size_ * sizeof(int32_t), &offsets));
    offsets_ = static_cast<int32_t*>(offsets);
    return {};
  }

  int32_t rank() const override { return rank_; }
  int32_t size() const override { return size_; }

  Status allocate(size_t bytes, void** memory) override {
    const size_t whole = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    *memory = std::aligned_alloc(kAlignment, whole);
    if (!*memory)
      return Status::failure(Code::out_of_memory,
                             "not enough memory for an exchange of " + std::to_string(bytes) + " bytes");
    memory_.push_back(*memory);
    return {};
  }

  Status start(const Round& round) override {
    if (round.kind == Round::Kind::all_gather) {
      int32_t offset = 0;
      for (int32_t rank = 0; rank < size_; rank++) {
        offsets_[rank] = offset;
        offset += round.counts[rank];
      }
    }
    marginfc_mpi_round given{};
    given.kind = static_cast<int32_t>(round.kind);
    given.element = static_cast<int32_t>(round.element);
    given.reduction = static_cast<int32_t>(round.reduction);
    given.root = round.root;
    given.counts = round.counts;
    given.offsets = offsets_;
    given.input = round.input;
    given.output = round.output;
    return check(functions_.start(&given, text_), Code::group, "MPI failed: ");
  }

  Status poll(bool* done) override {
    int32_t complete = 0;
    MARGINFC_TRY(check(functions_.poll(&complete, text_), Code::group, "MPI failed: "));
    *done = complete != 0;
    return {};
  }

  // MPI cannot take a collective back. It moves on in calls of MPI only, and there are none any more; but other processes
  // may still read this one's memory.
  void abandon() override { abandoned_ = true; }

  Status leave() override { return check(functions_.leave(text_), Code::group, "MPI failed: "); }

 private:
  Status check(int failed, Code code, const char* what) const {
    return failed ? Status::failure(code, std::string(what) + text_) : Status{};
  }

  const Functions& functions_;
  int32_t rank_ = 0, size_ = 1;
  std::vector<void*> memory_;
  int32_t* offsets_ = nullptr;  // [size], where each part of an all-gather begins
  bool abandoned_ = false;
  char text_[MARGINFC_MPI_TEXT_BYTES] = "";
};

}  // namespace

Status open_mpi(const std::string& shim, std::unique_ptr<Transport>* transport) {
  const Functions* functions = nullptr;
  const Status loaded = load(shim, &functions);
  if (!loaded.ok()) return Status::failure(loaded.code, "mpi() is not available: " + loaded.message);
  if (claimed.exchange(true))
    return Status::failure(Code::unavailable,
                           "mpi() has been called in this process before, and MPI starts only once in a process: use "
                           "the group that the first call returned");
  auto opened = std::make_unique<MpiTransport>(*functions);
  MARGINFC_TRY(opened->open());
  *transport = std::move(opened);
  return {};
}

Status describe_mpi(const std::string& shim, std::string* library) {
  const Functions* functions = nullptr;
  MARGINFC_TRY(load(shim, &functions));
  char text[MARGINFC_MPI_TEXT_BYTES] = "";
  functions->library(text);
  *library = text;
  return {};
}

}  // namespace marginfc::group

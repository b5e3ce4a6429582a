// Collectives over a transport of threads, without Node and MPI, for sanitizers: results, agreement, arrays longer than an
// int counts, and a transport that fails, or does not answer, at each step.
#include <sys/mman.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <thread>

#include "group/communicator.h"

using namespace marginfc;
using namespace marginfc::group;

namespace {

std::atomic<int> right{0}, wrong{0};

void check(bool ok, const char* what) {
  ok ? right++ : wrong++;
  if (!ok) std::printf("FAILED: %s\n", what);
}

enum class Fault { none, open_blocks, allocate_fails, start_fails, never_done, poll_fails, leave_blocks };

// Where ranks leave what they bring; the last to come does the work of all.
struct Board {
  explicit Board(int32_t size) : rounds(size) {}
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Round> rounds;
  int32_t come = 0;
  int64_t generation = 0;
  bool released = false;
  int64_t moved = 0;  // bytes of broadcasts

  void block() {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [this] { return released; });
  }
  void release() {
    std::lock_guard<std::mutex> lock(mutex);
    released = true;
    changed.notify_all();
  }

  void work() {
    const auto size = static_cast<int32_t>(rounds.size());
    const Round& first = rounds[0];
    const size_t width = byte_size(first.element);
    std::vector<char> whole;
    if (first.kind == Round::Kind::all_gather) {
      for (int32_t rank = 0; rank < size; rank++) {
        const auto* part = static_cast<const char*>(rounds[rank].input);
        whole.insert(whole.end(), part, part + first.counts[rank] * width);
      }
      for (Round& round : rounds) std::memcpy(round.output, whole.data(), whole.size());
    } else if (first.kind == Round::Kind::broadcast) {
      const void* root = rounds[first.root].output;
      moved += first.counts[0] * static_cast<int64_t>(width);
      for (Round& round : rounds)
        if (round.output != root) std::memcpy(round.output, root, first.counts[0] * width);
    } else {
      // Of int32 only.
      const bool scatters = first.kind == Round::Kind::reduce_scatter;
      int64_t total = 0;
      for (int32_t rank = 0; rank < (scatters ? size : 1); rank++) total += first.counts[rank];
      std::vector<int32_t> sums(total);
      for (Round& round : rounds)
        for (int64_t i = 0; i < total; i++)
          sums[i] += static_cast<const int32_t*>(scatters ? round.input : round.output)[i];
      const int32_t* at = sums.data();
      for (int32_t rank = 0; rank < size; rank++) {
        const int64_t count = scatters ? first.counts[rank] : total;
        std::memcpy(rounds[rank].output, at, count * width);
        if (scatters) at += count;
      }
    }
    come = 0;
    generation++;
  }
};

class ThreadTransport final : public Transport {
 public:
  ThreadTransport(std::shared_ptr<Board> board, int32_t rank, Fault fault)
      : board_(std::move(board)), rank_(rank), fault_(fault) {}
  int32_t rank() const override { return rank_; }
  int32_t size() const override { return static_cast<int32_t>(board_->rounds.size()); }
  Status allocate(size_t bytes, void** memory) override {
    if (fault_ == Fault::allocate_fails) return Status::failure(Code::out_of_memory, "no memory, on purpose");
    memory_.emplace_back(bytes);
    *memory = memory_.back().data();
    return {};
  }
  Status start(const Round& round) override {
    if (fault_ == Fault::start_fails) return Status::failure(Code::group, "no start, on purpose");
    std::lock_guard<std::mutex> lock(board_->mutex);
    waiting_for_ = board_->generation + 1;
    board_->rounds[rank_] = round;
    if (fault_ != Fault::never_done && ++board_->come == size()) board_->work();
    return {};
  }
  Status poll(bool* done) override {
    if (fault_ == Fault::poll_fails) return Status::failure(Code::group, "no end, on purpose");
    std::lock_guard<std::mutex> lock(board_->mutex);
    *done = board_->generation >= waiting_for_;
    return {};
  }
  void abandon() override { abandoned_ = true; }
  Status leave() override {
    check(!abandoned_, "nothing follows abandon()");
    if (fault_ == Fault::leave_blocks) board_->block();
    return {};
  }

 private:
  const std::shared_ptr<Board> board_;  // a thread that is kept may outlive the check
  const int32_t rank_;
  const Fault fault_;
  std::vector<std::vector<char>> memory_;
  int64_t waiting_for_ = 0;
  bool abandoned_ = false;
};

Communicator::Open opener(const std::shared_ptr<Board>& board, int32_t rank, Fault fault) {
  return [board, rank, fault](std::unique_ptr<Transport>* transport) -> Status {
    if (fault == Fault::open_blocks) board->block();
    *transport = std::make_unique<ThreadTransport>(board, rank, fault);
    return {};
  };
}

Collective collective(Round::Kind kind, const std::vector<int32_t>& input, std::vector<int32_t>* output) {
  Collective made;
  made.kind = kind;
  made.element = Element::int32;
  made.input = input.data();
  made.input_length = static_cast<int64_t>(input.size());
  made.output = output->data();
  made.output_length = static_cast<int64_t>(output->size());
  return made;
}

int32_t element(int64_t i) { return static_cast<int32_t>(i * 7919 % 100'003); }

// Part of rank r: `longest` elements of rank 1, r of any other.
void collectives_are_right(int32_t size, int64_t longest) {
  const auto board = std::make_shared<Board>(size);
  std::vector<int32_t> expected;
  std::vector<int64_t> starts;
  for (int32_t rank = 0; rank < size; rank++) {
    starts.push_back(static_cast<int64_t>(expected.size()));
    expected.insert(expected.end(), rank == 1 ? longest : rank, 0);
  }
  for (size_t i = 0; i < expected.size(); i++) expected[i] = element(i);
  std::vector<std::thread> ranks;
  for (int32_t rank = 0; rank < size; rank++)
    ranks.emplace_back([&, rank] {
      Communicator group("threads", opener(board, rank, Fault::none), 60);
      check(group.open().ok() && group.rank() == rank && group.size() == size, "open");
      const int64_t end = rank + 1 < size ? starts[rank + 1] : static_cast<int64_t>(expected.size());
      std::vector<int32_t> part(expected.begin() + starts[rank], expected.begin() + end), whole(expected.size()), none;
      check(group.run(collective(Round::Kind::all_gather, part, &whole)).ok() && whole == expected, "all_gather");
      check(group.run(collective(Round::Kind::all_reduce, none, &whole)).ok(), "all_reduce");
      bool reduced = true;
      for (size_t i = 0; i < whole.size(); i++) reduced &= whole[i] == element(i) * size;
      check(reduced, "sums");
      std::vector<int32_t> scattered(part.size());
      check(group.run(collective(Round::Kind::reduce_scatter, expected, &scattered)).ok(), "reduce_scatter");
      bool all = true;
      for (size_t i = 0; i < part.size(); i++) all &= scattered[i] == element(starts[rank] + i) * size;
      check(all, "scattered sums");
      std::vector<int32_t> uneven(rank + 1);
      if (size > 1)
        check(group.run(collective(Round::Kind::broadcast, none, &uneven)).code == Code::shape, "uneven broadcast");
      check(group.run({}).ok(), "barrier");
      check(group.close().ok() && group.run({}).code == Code::disposed, "close");
    });
  for (std::thread& rank : ranks) rank.join();
}

// Nothing is written where the root is the only rank, so pages that nobody has touched will do.
void more_than_an_int_counts() {
  const int64_t length = (int64_t{1} << 31) + 5;
  void* zeros = mmap(nullptr, length, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (zeros == MAP_FAILED) return check(false, "address space for 2 GiB");
  const auto board = std::make_shared<Board>(1);
  Communicator group("threads", opener(board, 0, Fault::none), 300);
  Collective long_one;
  long_one.kind = Round::Kind::broadcast;
  long_one.element = Element::uint8;
  long_one.output = zeros;
  long_one.output_length = length;
  check(group.open().ok() && group.run(long_one).ok() && board->moved == length, "an array longer than an int counts");
  munmap(zeros, length);
}

void faults_are_failures() {
  for (const Fault fault : {Fault::open_blocks, Fault::allocate_fails, Fault::start_fails, Fault::never_done,
                            Fault::poll_fails, Fault::leave_blocks}) {
    const auto board = std::make_shared<Board>(1);
    {
      Communicator group("threads", opener(board, 0, fault), 0.2);
      std::vector<int32_t> values(3), none;
      const Collective reduce = collective(Round::Kind::all_reduce, none, &values);
      const Status opened = group.open();
      const Status ran = opened.ok() ? group.run(reduce) : opened;
      const Status closed = group.close();
      const Code expected = fault == Fault::allocate_fails                              ? Code::out_of_memory
                            : fault == Fault::start_fails || fault == Fault::poll_fails ? Code::group
                                                                                        : Code::group_timeout;
      check((fault == Fault::leave_blocks ? closed : ran).code == expected, "a fault's code");
      if (fault != Fault::leave_blocks) check(closed.ok(), "close after a fault");
    }
    board->release();
  }
}

// As the end of a worker does.
void cancelled_calls_return() {
  const auto board = std::make_shared<Board>(2);
  Communicator group("threads", opener(board, 0, Fault::none), 300);
  check(group.open().ok(), "open");
  std::thread other([&] { group.cancel(); });
  check(group.run({}).code == Code::aborted && group.run({}).code == Code::aborted, "cancelled");
  other.join();
}

}  // namespace

int main() {
  for (const int32_t size : {1, 2, 3}) collectives_are_right(size, 5);
  // Several rounds.
  collectives_are_right(3, 3'000'001);
  more_than_an_int_counts();
  faults_are_failures();
  cancelled_calls_return();
  std::printf("groups of processes: %d right, %d wrong\n", right.load(), wrong.load());
  return wrong != 0;
}

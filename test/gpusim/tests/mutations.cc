// Mutations: in correct kernels each barrier and each wait is deleted, stages and shared memory are changed, fragment
// registers swapped. Every time the device must report it or the result must be wrong, unless fixtures/mutation_exceptions.txt
// has the site.
#include <algorithm>
#include <cstdio>
#include <sstream>

#include "tests/check.h"
#include "tests/gemm.h"
#include "tests/ptx_cases.h"

namespace gpusim {
namespace {

struct Site {
  int line;  // from 1
  std::string what;
  std::string text;  // the mutated kernel
};

bool starts_with_opcode(const std::string& line, const char* opcode) {
  size_t at = line.find_first_not_of(" \t");
  if (at != std::string::npos && line[at] == '@') at = line.find_first_not_of(" \t", line.find_first_of(" \t", at));
  return at != std::string::npos && line.compare(at, std::char_traits<char>::length(opcode), opcode) == 0;
}

std::string join(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

/// Swaps the first two registers of the nth group in braces.
bool swap_registers(std::string* line, int group) {
  size_t open = std::string::npos;
  for (int i = 0; i <= group; i++) open = line->find('{', open + 1);
  const size_t comma = line->find(',', open), end = line->find_first_of(",}", comma + 1);
  if (open == std::string::npos || comma == std::string::npos || end == std::string::npos) return false;
  const auto trim = [](std::string s) { return s.substr(s.find_first_not_of(" \t")); };
  const std::string first = trim(line->substr(open + 1, comma - open - 1)),
                    second = trim(line->substr(comma + 1, end - comma - 1));
  line->replace(open + 1, end - open - 1, second + ", " + first);
  return first != second;
}

std::vector<Site> sites_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  std::vector<Site> sites;
  const char* const deleted[] = {"bar.sync",
                                 "barrier.sync",
                                 "cp.async.wait_group",
                                 "cp.async.bulk.wait_group",
                                 "wgmma.wait_group",
                                 "wgmma.fence",
                                 "wgmma.commit_group",
                                 "cp.async.commit_group",
                                 "mbarrier.try_wait",
                                 "mbarrier.arrive.expect_tx",
                                 "fence.proxy",
                                 "bar.warp.sync",
                                 "setmaxnreg"};
  int swapped = 0;
  for (size_t i = 0; i < lines.size(); i++) {
    const std::string before = lines[i];
    const auto add = [&](const std::string& what, const std::string& after) {
      lines[i] = after;
      sites.push_back({static_cast<int>(i) + 1, what, join(lines)});
      lines[i] = before;
    };
    for (const char* opcode : deleted) {
      if (!starts_with_opcode(before, opcode)) continue;
      // A deleted wait on an mbarrier must still say that the phase is complete.
      if (std::string(opcode) == "mbarrier.try_wait") {
        const size_t at = before.find("try_wait"), p = before.find_first_of(" \t", at), comma = before.find(',', p);
        add("delete " + std::string(opcode), "setp.eq.u32 " + before.substr(p, comma - p) + ", 1, 1;");
      } else {
        add("delete " + std::string(opcode), "");
      }
    }
    if ((starts_with_opcode(before, "mma.sync") || starts_with_opcode(before, "ldmatrix")) && swapped < 24) {
      std::string after = before;
      if (swap_registers(&after, starts_with_opcode(before, "mma.sync") ? swapped % 3 : 0)) {
        add("swap two fragment registers", after);
        swapped++;
      }
    }
    // A stage that is one further than it should be.
    if (starts_with_opcode(before, "ldmatrix") && swapped < 24) {
      const size_t close = before.find(']');
      if (close != std::string::npos)
        add("read the next stage", before.substr(0, close) + "+16384" + before.substr(close));
    }
  }
  return sites;
}

struct Tally {
  int executed = 0, caught = 0, excepted = 0;
};

using Run = std::function<std::string(const std::string& ptx, unsigned less_shared)>;

void mutate(const std::string& name, const std::string& text, const std::string& exceptions, const Run& run,
            Tally* tally) {
  check(run(text, 0).empty(), name + " itself is right");
  std::vector<Site> sites = sites_of(text);
  for (const Site& site : sites) {
    tally->executed++;
    bool caught = false;
    for (uint64_t seed = 0; seed < 6 && !caught; seed++) {
      const With settings([&](Options& options) {
        options.seed = seed;
        options.max_instructions = 10000000;
      });
      caught = !run(site.text, 0).empty();
    }
    const std::string key = name + ":" + std::to_string(site.line) + " " + site.what;
    if (caught) {
      tally->caught++;
    } else if (exceptions.find("\n" + key + " ") != std::string::npos) {
      tally->excepted++;
    } else {
      check(false, "not caught: " + key);
    }
  }
  tally->executed++;
  if (!run(text, 16).empty())
    tally->caught++;
  else
    check(false, name + " with less shared memory");
}

}  // namespace

void check_mutations() {
  Tally tally;
  const std::string exceptions = "\n" + read_file(source_folder() + "/tests/fixtures/mutation_exceptions.txt");
  const std::string gemm = gemm_text();
  if (gemm.empty()) return check(false, "tests/fixtures/gemm.ptx is missing");
  mutate(
      "gemm", gemm, exceptions,
      [](const std::string& ptx, unsigned less) {
        GemmProblem problem(128, 128, 256);
        const Outcome outcome = problem.run(ptx, 65536 - less);
        if (!outcome.ok()) return "error: " + outcome.text;
        return problem.error() == 0 ? std::string() : std::string("wrong");
      },
      &tally);
  std::vector<PtxCase> cases = load_ptx_cases();
  if (cases.empty()) skip("mutations of ptx-cases", "there is no ../shared/ptx-cases beside the checkout");
  std::sort(cases.begin(), cases.end(), [](const PtxCase& a, const PtxCase& b) { return a.name < b.name; });
  for (const PtxCase& one : cases)
    mutate(
        one.name, one.ptx, exceptions,
        [&](const std::string& ptx, unsigned less) {
          PtxCase smaller = one;
          smaller.shared -= less;
          return run_ptx_case(smaller, ptx);
        },
        &tally);
  std::printf("mutations: %d executed, %d caught, %d excepted\n", tally.executed, tally.caught, tally.excepted);
  check(tally.executed == tally.caught + tally.excepted, "every mutation is caught or excepted");
}

}  // namespace gpusim

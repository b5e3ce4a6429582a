// The driver API: limits, streams whose work comes as late as it may, events, graphs, several devices, fatbins.
#include <cstdlib>
#include <cstring>

#include "tests/check.h"

extern "C" {
int cuStreamCreate(gpusim::Stream**, unsigned);
int cuStreamDestroy_v2(gpusim::Stream*);
int cuStreamSynchronize(gpusim::Stream*);
int cuStreamQuery(gpusim::Stream*);
int cuStreamWaitEvent(gpusim::Stream*, gpusim::Event*, unsigned);
int cuStreamBeginCapture_v2(gpusim::Stream*, int);
int cuStreamEndCapture(gpusim::Stream*, gpusim::Graph**);
int cuEventCreate(gpusim::Event**, unsigned);
int cuEventRecord(gpusim::Event*, gpusim::Stream*);
int cuEventSynchronize(gpusim::Event*);
int cuEventQuery(gpusim::Event*);
int cuGraphCreate(gpusim::Graph**, unsigned);
int cuGraphAddKernelNode(gpusim::GraphNode**, gpusim::Graph*, gpusim::GraphNode* const*, size_t,
                         const gpusim::KernelNodeParams*);
int cuGraphExecKernelNodeSetParams(gpusim::GraphExec*, gpusim::GraphNode*, const gpusim::KernelNodeParams*);
int cuGraphInstantiateWithFlags(gpusim::GraphExec**, gpusim::Graph*, unsigned long long);
int cuGraphLaunch(gpusim::GraphExec*, gpusim::Stream*);
int cuGraphExecDestroy(gpusim::GraphExec*);
int cuGraphDestroy(gpusim::Graph*);
int cuGraphGetNodes(gpusim::Graph*, gpusim::GraphNode**, size_t*);
int cuMemHostAlloc(void**, size_t, unsigned);
int cuMemFreeHost(void*);
int cuMemcpyHtoDAsync_v2(uint64_t, const void*, size_t, gpusim::Stream*);
int cuMemcpyDtoHAsync_v2(void*, uint64_t, size_t, gpusim::Stream*);
int cuMemcpyPeer(uint64_t, gpusim::Context*, uint64_t, gpusim::Context*, size_t);
int cuMemGetInfo_v2(size_t*, size_t*);
int cuFuncGetAttribute(int*, int, gpusim::Function*);
int cuGetProcAddress_v2(const char*, void**, int, uint64_t, int*);
int cuGetErrorName(int, const char**);
int cuGetErrorString(int, const char**);
int cuDeviceGetCount(int*);
int cuDeviceGetAttribute(int*, int, int);
int cuCtxEnablePeerAccess(gpusim::Context*, unsigned);
int cuLaunchKernelEx(const gpusim::LaunchConfig*, gpusim::Function*, void**, void**);
int cuModuleGetGlobal_v2(uint64_t*, size_t*, gpusim::LoadedModule*, const char*);
}

namespace gpusim {
namespace {

struct Kernel1 {
  LoadedModule* module = nullptr;
  Function* function = nullptr;
  int code = 0;
  Kernel1(const std::string& image, const char* name) {
    code = cuModuleLoadData(&module, image.data());
    if (code == 0) code = cuModuleGetFunction(&function, module, name);
  }
};

void start(int sm) {
  run_kernel(".version 7.0\n.target sm_75\n.address_size 64\n.visible .entry k()\n{\nret;\n}\n", "k", {}, {}, 0, {},
             sm);
}

int launch(Function* function, std::vector<void*> params, Stream* stream = nullptr, unsigned threads = 32,
           unsigned shared = 0) {
  return cuLaunchKernel(function, 1, 1, 1, threads, 1, 1, shared, stream, params.data(), nullptr);
}

const std::string kAddOne = kernel_text(
    ".param .u64 a",
    "ld.param.u64 %rd0, [a];\nmov.u32 %r0, %tid.x;\nmul.wide.u32 %rd1, %r0, 4;\nadd.u64 %rd0, %rd0, %rd1;\n"
    "ld.global.u32 %r1, [%rd0];\nadd.u32 %r1, %r1, 1;\nst.global.u32 [%rd0], %r1;");

void lateness() {
  start(90);
  Kernel1 add(kAddOne, "k");
  uint64_t memory = 0;
  cuMemAlloc_v2(&memory, 128);
  void* pinned_of = nullptr;
  cuMemHostAlloc(&pinned_of, 128, 0);
  auto* pinned = static_cast<uint32_t*>(pinned_of);
  Stream *stream = nullptr, *other = nullptr;
  cuStreamCreate(&stream, 1);
  cuStreamCreate(&other, 1);
  for (int i = 0; i < 32; i++) pinned[i] = 1;
  cuMemcpyHtoDAsync_v2(memory, pinned, 128, stream);
  pinned[3] = 50;  // the copy has not happened: it must see this
  launch(add.function, {&memory}, stream);
  cuMemcpyDtoHAsync_v2(pinned, memory, 128, stream);
  check(pinned[0] == 1, "nothing has happened yet");
  check(cuStreamQuery(stream) == 600, "not ready");
  check(cuStreamSynchronize(stream) == 0 && pinned[0] == 2 && pinned[3] == 51,
        "all of it at the synchronise, and as late as it may");
  uint32_t pageable[32];
  for (uint32_t& x : pageable) x = 7;
  cuMemcpyHtoDAsync_v2(memory, pageable, 128, stream);
  pageable[0] = 99;
  cuStreamSynchronize(stream);
  cuMemcpyDtoH_v2(pageable, memory, 128);
  check(pageable[0] == 7, "pageable memory is read before the call returns");
  Event* event = nullptr;
  cuEventCreate(&event, 0);
  launch(add.function, {&memory}, stream);
  cuEventRecord(event, stream);
  launch(add.function, {&memory}, stream);
  cuMemcpyDtoHAsync_v2(pinned, memory, 128, other);
  check(cuEventQuery(event) == 600 && cuEventSynchronize(event) == 0, "an event");
  cuStreamSynchronize(other);
  check(pinned[0] == 8, "an event waits for what is before it, not for what follows");
  cuEventRecord(event, stream);
  cuStreamWaitEvent(other, event, 0);
  cuMemcpyDtoHAsync_v2(pinned, memory, 128, other);
  cuStreamSynchronize(other);
  check(pinned[0] == 9, "a stream waits for another's event");
  int polls = 0;
  launch(add.function, {&memory}, stream);
  while (cuStreamQuery(stream) == 600 && polls < 100) polls++;
  check(polls > 0 && polls < 100, "polling comes to an end");

  Graph* graph = nullptr;
  GraphExec* exec = nullptr;
  check(cuStreamBeginCapture_v2(stream, 0) == 0, "capture");
  for (int i = 0; i < 3; i++) launch(add.function, {&memory}, stream);
  check(cuStreamEndCapture(stream, &graph) == 0 && cuGraphInstantiateWithFlags(&exec, graph, 0) == 0, "a graph");
  size_t nodes = 0;
  cuGraphGetNodes(graph, nullptr, &nodes);
  cuMemcpyDtoH_v2(pageable, memory, 128);
  check(nodes == 3 && pageable[0] == 10, "capturing runs nothing");
  cuGraphLaunch(exec, stream);
  cuGraphLaunch(exec, stream);
  cuGraphExecDestroy(exec);  // what was launched runs all the same
  cuGraphDestroy(graph);
  cuStreamSynchronize(stream);
  cuMemcpyDtoH_v2(pageable, memory, 128);
  check(pageable[0] == 16, "a graph runs as often as it is launched");
  cuStreamBeginCapture_v2(stream, 0);
  check(cuStreamSynchronize(stream) == 900 && cuStreamEndCapture(stream, &graph) == 901, "waiting breaks a capture");
  check(cuStreamDestroy_v2(reinterpret_cast<Stream*>(0x1234)) == 400 &&
            cuEventQuery(reinterpret_cast<Event*>(&event)) == 400,
        "handles are checked");
  cuMemFreeHost(pinned_of);
}

const std::string kDoubleAndAdd = kernel_text(
    ".param .u64 a, .param .u32 b",
    "ld.param.u64 %rd0, [a];\nld.param.u32 %r2, [b];\nld.global.u32 %r1, [%rd0];\nadd.u32 %r1, %r1, %r1;\n"
    "add.u32 %r1, %r1, %r2;\nst.global.u32 [%rd0], %r1;");

// A graph made node by node runs in the order that its nodes ask for, and only in that; new arguments are of launches to come.
void graphs() {
  start(90);
  Kernel1 kernel(kDoubleAndAdd, "k");
  uint64_t memory = 0;
  cuMemAlloc_v2(&memory, 128);
  Stream* stream = nullptr;
  cuStreamCreate(&stream, 1);
  uint32_t value = 0;
  void* arguments[] = {&memory, &value};
  const KernelNodeParams params{kernel.function, {1, 1, 1}, {1, 1, 1}, 0, arguments, nullptr};
  for (const bool ordered : {true, false}) {
    Graph* graph = nullptr;
    GraphExec* exec = nullptr;
    GraphNode* nodes[2] = {};
    check(cuGraphCreate(&graph, 0) == 0, "an empty graph");
    value = 1;
    check(cuGraphAddKernelNode(&nodes[0], graph, nullptr, 0, &params) == 0, "a node");
    value = 2;
    check(cuGraphAddKernelNode(&nodes[1], graph, nodes, ordered ? 1 : 0, &params) == 0, "a second one");
    check(cuGraphInstantiateWithFlags(&exec, graph, 0) == 0, "an executable graph");
    uint32_t result = 0;
    cuMemcpyHtoD_v2(memory, &result, 4);
    cuGraphLaunch(exec, stream);
    value = 5;
    check(cuGraphExecKernelNodeSetParams(exec, nodes[1], &params) == 0, "new arguments");
    cuStreamSynchronize(stream);
    cuMemcpyDtoH_v2(&result, memory, 4);
    check(result == (ordered ? 4 : 5), "nodes run after those that they depend on");
    cuGraphLaunch(exec, stream);
    cuStreamSynchronize(stream);
    cuMemcpyDtoH_v2(&result, memory, 4);
    check(result == (ordered ? 4 * 4 + 2 + 5 : (5 * 2 + 5) * 2 + 1), "arguments are those of the launch");
    GraphNode* stranger = reinterpret_cast<GraphNode*>(&result);
    check(cuGraphAddKernelNode(&nodes[0], graph, &stranger, 1, &params) == 1 &&
              cuGraphExecKernelNodeSetParams(exec, stranger, &params) == 1,
          "nodes are checked");
    cuGraphExecDestroy(exec);
    cuGraphDestroy(graph);
  }
}

// Two streams of which one reads what the other writes: with a seed, in either order, but not where an event is waited for.
void orders() {
  start(90);
  Kernel1 add(kAddOne, "k");
  uint64_t memory = 0;
  cuMemAlloc_v2(&memory, 128);
  void* pinned_of = nullptr;
  cuMemHostAlloc(&pinned_of, 128, 0);
  auto* pinned = static_cast<uint32_t*>(pinned_of);
  std::memset(pinned, 0, 128);
  cuMemcpyHtoD_v2(memory, pinned, 128);
  Stream *writer = nullptr, *reader = nullptr;
  cuStreamCreate(&writer, 1);
  cuStreamCreate(&reader, 1);
  Event* event = nullptr;
  cuEventCreate(&event, 0);
  uint32_t written = 0;
  int early = 0, late = 0, at_once = 0;
  for (uint64_t seed = 1; seed < 9; seed++)
    for (const bool waits : {false, true}) {
      Options::storage().seed = seed;
      launch(add.function, {&memory}, writer);
      written++;
      if (waits) {
        cuEventRecord(event, writer);
        cuStreamWaitEvent(reader, event, 0);
      }
      cuMemcpyDtoHAsync_v2(pinned, memory, 128, reader);
      at_once += pinned[0] == written;
      cuStreamSynchronize(reader);
      if (waits) check(pinned[0] == written, "an event is waited for in every order");
      if (!waits) (pinned[0] == written ? late : early)++;
      cuStreamSynchronize(writer);
    }
  Options::storage().seed = 0;
  check(early > 1 && late > 1, "streams that do not wait for each other run in either order");
  check(at_once > 1 && at_once < 16, "some run when they are issued, some do not");
  cuMemFreeHost(pinned_of);
}

void limits() {
  start(90);
  size_t free_bytes = 0, total = 0;
  uint64_t pointer = 0;
  cuMemGetInfo_v2(&free_bytes, &total);
  check(cuMemAlloc_v2(&pointer, total) == 0, "all the memory");
  uint64_t more = 0;
  check(cuMemAlloc_v2(&more, 4096) == 2, "then no more");
  cuMemFree_v2(pointer);
  check(cuMemAlloc_v2(&more, 4096) == 0, "and again when it is freed");
  Kernel1 add(kAddOne, "k");
  check(cuLaunchKernel(add.function, 1, 1, 1, 1025, 1, 1, 0, nullptr, nullptr, nullptr) == 1, "1025 threads");
  check(cuLaunchKernel(add.function, 0, 1, 1, 32, 1, 1, 0, nullptr, nullptr, nullptr) == 1, "no blocks");
  check(cuLaunchKernel(add.function, 1, 65536, 1, 32, 1, 1, 0, nullptr, nullptr, nullptr) == 1, "a grid too high");
  check(launch(add.function, {&more}, nullptr, 32, 49153) == 1, "more than 48 KiB of shared memory");
  check(cuFuncSetAttribute(add.function, 8, 100 << 10) == 0 &&
            launch(add.function, {nullptr}, nullptr, 32, 100 << 10) == 1,
        "a null parameter");
  check(cuFuncSetAttribute(add.function, 8, 300 << 10) == 1, "more shared memory than there is");
  int value = 0;
  check(cuFuncGetAttribute(&value, 4, add.function) == 0 && value > 0, "registers");
  const std::string required =
      ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n.reqntid 64\n{\nret;\n}\n";
  Kernel1 fixed(required, "k");
  check(launch(fixed.function, {}) == 1 && launch(fixed.function, {}, nullptr, 64) == 0, ".reqntid");
  LaunchAttribute attribute{};
  attribute.id = 4;
  attribute.cluster = {2, 1, 1};
  LaunchConfig config{{1, 1, 1}, {64, 1, 1}, 0, nullptr, &attribute, 1};
  check(cuLaunchKernelEx(&config, fixed.function, nullptr, nullptr) == 801, "clusters are refused");
  attribute.cluster = {1, 1, 1};
  check(cuLaunchKernelEx(&config, fixed.function, nullptr, nullptr) == 0, "cuLaunchKernelEx");
  void* found = nullptr;
  check(cuGetErrorName(700, const_cast<const char**>(reinterpret_cast<char**>(&found))) == 0 &&
            std::string(static_cast<char*>(found)) == "CUDA_ERROR_ILLEGAL_ADDRESS",
        "error names");
  check(cuGetErrorName(12345, const_cast<const char**>(reinterpret_cast<char**>(&found))) == 1, "unknown errors");
  check(cuDeviceGetAttribute(&value, 75, 0) == 0 && value == 9, "compute capability");
}

void devices() {
  Driver& driver = Driver::get();
  if (driver.devices.size() < 2) {
    auto second = std::make_unique<Device>(*driver.devices[0]);
    second->ordinal = 1;
    second->primary = nullptr;
    second->peers = 2;
    driver.devices.push_back(std::move(second));
  }
  start(90);
  driver.devices[1]->sm = 90;
  Context *first = current_context(), *second = nullptr;
  cuDevicePrimaryCtxRetain(&second, 1);
  uint64_t here = 0, there = 0;
  cuMemAlloc_v2(&here, 128);
  cuCtxSetCurrent(second);
  cuMemAlloc_v2(&there, 128);
  std::vector<uint32_t> values(32, 5);
  cuMemcpyHtoD_v2(there, values.data(), 128);
  check(cuMemcpyPeer(here, first, there, second, 128) == 0, "a copy between devices");
  cuCtxSetCurrent(first);
  Kernel1 add(kAddOne, "k");
  launch(add.function, {&there});
  check(cuCtxSynchronize() == 700 && driver.last_fault.find("peer access") != std::string::npos,
        "no access without asking: " + driver.last_fault);
  cuDevicePrimaryCtxReset_v2(0);
  check(cuCtxEnablePeerAccess(second, 0) == 0 && cuCtxEnablePeerAccess(second, 0) == 704, "peer access");
  Kernel1 again(kAddOne, "k");
  launch(again.function, {&there});
  check(cuCtxSynchronize() == 0, "a kernel on a peer's memory");
  cuCtxSetCurrent(second);
  cuMemcpyDtoH_v2(values.data(), there, 128);
  check(values[0] == 6, "which is changed");
  cuCtxSetCurrent(first);
}

/// fixtures/twice.cu: PTX for compute_75 and 80 and a cubin for sm_80, by nvcc 13.0, plain and compressed.
void fatbins() {
  for (const char* name : {"plain.fatbin", "zstd.fatbin"})
    for (const int sm : {75, 80, 90}) {
      start(sm);
      const std::string image = read_file(source_folder() + "/tests/fixtures/" + name);
      Kernel1 twice(image, "twice");
      check(twice.code == 0, std::string(name) + " on sm_" + std::to_string(sm));
      if (twice.code != 0) continue;
      uint64_t memory = 0;
      std::vector<float> values(32, 1.5f);
      int count = 32, target = 0, registers = 0;
      cuMemAlloc_v2(&memory, 128);
      cuMemcpyHtoD_v2(memory, values.data(), 128);
      launch(twice.function, {&memory, &count});
      cuMemcpyDtoH_v2(values.data(), memory, 128);
      cuFuncGetAttribute(&target, 6, twice.function);
      cuFuncGetAttribute(&registers, 4, twice.function);
      check(values[31] == 3.0f && target == (sm == 75 ? 75 : 80), "it runs the best PTX");
      check((sm == 80) == twice.function->program()->registers_known && registers > 0, "registers from the cubin");
    }
  start(80);
  LoadedModule* module = nullptr;
  std::string broken = read_file(source_folder() + "/tests/fixtures/zstd.fatbin");
  for (size_t i = 16; i < broken.size(); i += 7) broken[i] = static_cast<char>(broken[i] ^ 0x55);
  check(cuModuleLoadData(&module, broken.data()) == 200, "a broken fatbin");
  check(cuModuleLoadData(&module, "\177ELF\2\1\1") == 209, "a cubin by itself");
}

/// Without CUDA_MODULE_LOADING=EAGER, which other checks have: what is wrong with a kernel is said when that is needed.
void lazy_loading() {
  start(90);
  const With settings([](Options& options) { options.lazy_loading = true; });
  const std::string image = kAddOne + ".visible .entry broken()\n{\nfrobnicate.u32 %r1;\n}\n" +
                            ".visible .entry large()\n{\n.shared .align 4 .b8 own[32768];\nret;\n}\n";
  Kernel1 add(image, "k");
  uint64_t memory = 0;
  std::vector<uint32_t> values(32, 7);
  cuMemAlloc_v2(&memory, 128);
  cuMemcpyHtoD_v2(memory, values.data(), 128);
  check(add.code == 0 && launch(add.function, {&memory}) == 0, "a kernel beside a malformed one");
  cuMemcpyDtoH_v2(values.data(), memory, 128);
  check(values[31] == 8, "it runs");
  Function* function = nullptr;
  int bytes = 0;
  check(cuModuleGetFunction(&function, add.module, "broken") == 0, "a malformed kernel is found");
  check(launch(function, {}) == 218 && cuFuncGetAttribute(&bytes, 1, function) == 218, "its launch says what is wrong");
  cuModuleGetFunction(&function, add.module, "large");
  check(cuFuncSetAttribute(function, 8, 200 << 10) == 0, "much shared memory of a kernel that has some of its own");
  check(launch(function, {}, nullptr, 32, 200 << 10) == 1, "its launch says that this is too much");
  check(launch(function, {}, nullptr, 32, 190 << 10) == 0 && cuCtxSynchronize() == 0, "less is not");
  check(cuFuncSetAttribute(function, 8, 200 << 10) == 1, "then nor is so much allowed");
  LoadedModule* module = nullptr;
  check(cuModuleLoadData(&module, ".version 9.0\n.target sm_90\n.entry k()\n{\n") == 218, "a body without end");
}

}  // namespace

void check_driver() {
  lateness();
  graphs();
  orders();
  limits();
  devices();
  fatbins();
  lazy_loading();
}

}  // namespace gpusim

// What a worker needs to run the drivers on a GPU without torch: device memory, copies, and what went wrong.
//
// Compiled with the drivers into one library by gpu_route.py: by nvcc for a device, or by g++ for the emulation, which
// shows that this file and the Python around it work.
#include <cuda_runtime.h>

#include <string>
#include <vector>

#include "common/cuda_launch.h"
#include "gpu/route.h"

namespace {

constexpr int64_t kGuard = 256;
constexpr int kPoisonThreads = 256, kPoisonBytes = 96 * 1024;

std::string& fault() {
  static std::string text;
  return text;
}

cudaError_t noted(cudaError_t error, const char* what) {
  if (error != cudaSuccess && fault().empty()) fault() = std::string(what) + ": " + cudaGetErrorString(error);
  return error;
}

// Shared memory keeps what the last kernel left there. After this it is NaN on every multiprocessor that a block met.
__global__ void poison_kernel(int count) {
  CUDA_DYN_SMEM(volatile uint32_t, words);
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kPoisonThreads) words[i] = 0xffffffffu;
}

bool intact(const char* start) {
  std::vector<unsigned char> found(kGuard);
  if (noted(cudaMemcpy(found.data(), start, kGuard, cudaMemcpyDeviceToHost), "reading a guard")) return true;
  for (unsigned char byte : found)
    if (byte != 0xff) return false;
  return true;
}

}  // namespace

namespace gpu_route {

void* allocate_guarded(int64_t bytes) {
  void* outer = nullptr;
  const auto total = static_cast<size_t>(bytes + 2 * kGuard);
  if (noted(cudaMalloc(&outer, total), "scratch memory")) return nullptr;
  noted(cudaMemset(outer, 0xff, total), "poisoning scratch memory");
  return static_cast<char*>(outer) + kGuard;
}

void free_guarded(void* inner, int64_t bytes) {
  if (!inner) return;
  char* start = static_cast<char*>(inner) - kGuard;
  if (!noted(cudaDeviceSynchronize(), "the kernels") && (!intact(start) || !intact(start + kGuard + bytes)))
    fault() = "wrote outside of the scratch memory";
  cudaFree(start);
}

}  // namespace gpu_route

#ifndef GPU_ROUTE_KEY
#define GPU_ROUTE_KEY "none"
#endif

extern "C" {

const char* route_key() { return GPU_ROUTE_KEY; }

int route_devices() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

void* route_allocate(int64_t bytes) {
  void* memory = nullptr;
  return noted(cudaMalloc(&memory, static_cast<size_t>(bytes)), "allocating") ? nullptr : memory;
}

void route_free(void* memory) { cudaFree(memory); }

int route_write(void* to, const void* from, int64_t bytes) {
  return noted(cudaMemcpy(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice), "copying in");
}

int route_read(void* to, const void* from, int64_t bytes) {
  return noted(cudaMemcpy(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost), "copying out");
}

void route_poison_shared() {
  int device = 0, multiprocessors = 1;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (noted(vlmadapt::allow_shared_memory(poison_kernel, kPoisonBytes), "poisoning shared memory")) return;
  CUDA_LAUNCH(poison_kernel, dim3(2 * multiprocessors), dim3(kPoisonThreads), kPoisonBytes, nullptr, kPoisonBytes / 4);
  noted(cudaGetLastError(), "poisoning shared memory");
}

// Waits for the device. The text of the first thing that went wrong since the last call, empty if nothing did.
const char* route_finish() {
  static std::string text;
  noted(cudaDeviceSynchronize(), "the kernels");
  text.swap(fault());
  fault().clear();
  return text.c_str();
}

}  // extern "C"

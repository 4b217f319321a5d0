// The few functions of the CUDA runtime that launchers call, for both routes. No device, no memory of its own.
#include <cuda_runtime.h>
#include <sys/mman.h>

#include <cstring>
#include <map>

#include "core.h"

namespace simt {
namespace {
cudaError_t last_error = cudaSuccess;
std::map<const void*, int> shared_limit;  // kernels that were allowed more dynamic shared memory
std::map<void*, size_t> device_memory;    // its sizes
constexpr size_t kDefaultShared = 48 * 1024, kLargestShared = 163 * 1024;  // sm_80: the smallest of the big ones
}  // namespace

const char* check_launch(dim3 grid, dim3 block, size_t shared_bytes, const void* kernel) {
  const uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
  if (threads < 1 || threads > 1024 || block.z > 64) return "block size";
  if (grid.x < 1 || grid.y < 1 || grid.z < 1) return "empty grid";
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) return "grid too large";
  auto allowed = shared_limit.find(kernel);
  if (shared_bytes > (allowed == shared_limit.end() ? kDefaultShared : static_cast<size_t>(allowed->second)))
    return "more dynamic shared memory than the kernel was allowed";
  return nullptr;
}

void record_launch_error() { last_error = cudaErrorLaunchFailure; }
}  // namespace simt

extern "C" {
cudaError_t cudaGetLastError() {
  cudaError_t e = simt::last_error;
  simt::last_error = cudaSuccess;
  return e;
}
cudaError_t cudaPeekAtLastError() { return simt::last_error; }
const char* cudaGetErrorString(cudaError_t e) { return e == cudaSuccess ? "no error" : "emulated launch failure"; }
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 2 : 0;  // two: so that small cases split their work too
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaErrorInvalidValue;
  if (value > static_cast<int>(simt::kLargestShared)) return cudaErrorInvalidValue;
  simt::shared_limit[kernel] = value;
  return cudaSuccess;
}
// What only the library of the route "gpu" calls, here as there. Memory is taken page by page, as it is written to.
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** memory, size_t bytes) {
  bytes += bytes == 0;
  *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (*memory == MAP_FAILED) return cudaErrorMemoryAllocation;
  simt::device_memory[*memory] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  if (memory) munmap(memory, simt::device_memory.at(memory));
  simt::device_memory.erase(memory);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* p, int value, size_t bytes) {
  memset(p, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  memset(p, value, bytes);
  return cudaSuccess;
}
}

// Route B's half of the CUDA runtime: nvcc's host code registers kernels and launches them; we run their translation.
#include <cstdio>
#include <map>

#include "ptx_runtime.h"

extern "C" const ptx::Entry ptx_entries[];

namespace {
std::map<const void*, const ptx::Entry*>& kernels() {  // function-local: registration runs before main
  static std::map<const void*, const ptx::Entry*> table;
  return table;
}
struct Configuration {
  dim3 grid, block;
  size_t shared;
  void* stream;
} pushed[16];
int depth = 0;

struct Call {
  const ptx::Entry* entry;
  char* parameters;
};
}  // namespace

extern "C" {
void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* host, char*, const char* device, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  for (auto* e = ptx_entries; e->name; ++e)
    if (!strcmp(e->name, device)) kernels()[host] = e;
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
char __cudaInitModule(void**) { return 0; }
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  pushed[depth++] = {grid, block, shared, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  const Configuration& c = pushed[--depth];
  *grid = c.grid;
  *block = c.block;
  *shared = c.shared;
  *static_cast<void**>(stream) = c.stream;
  return cudaSuccess;
}
cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t) {
  auto found = kernels().find(kernel);
  if (found == kernels().end()) {
    simt::report("launch of a kernel that was not translated");
    return cudaErrorInvalidDeviceFunction;
  }
  const ptx::Entry* e = found->second;
  alignas(16) static char parameters[4096];
  for (int i = 0; i < e->parameters; ++i) memcpy(parameters + e->offsets[i], arguments[i], e->sizes[i]);
  Call call{e, parameters};
  simt::launch_raw(
      grid, block, shared, kernel,
      [](void* context) {
        auto* c = static_cast<Call*>(context);
        c->entry->body(c->parameters);
      },
      &call, e->name, e->static_shared);
  return cudaPeekAtLastError();
}
cudaError_t __cudaGetKernel(cudaKernel_t* handle, const void* kernel) {
  *handle = reinterpret_cast<cudaKernel_t>(const_cast<void*>(kernel));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t stream) {
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, arguments, shared, stream);
}
}

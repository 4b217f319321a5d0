// Occupancy by NVIDIA's own stand-alone header. Reads "arch registers threads static_shared dynamic_shared" a line,
// prints the active blocks of a multiprocessor and its thread limit. No GPU and no runtime library.
#include <cuda_occupancy.h>
#include <cuda_runtime_api.h>

#include <cstdio>

struct Device {
  int major, minor, threads, shared;
};
constexpr Device kDevices[] = {{8, 0, 2048, 167936}, {8, 6, 1536, 102400},  {8, 9, 1536, 102400},
                               {9, 0, 2048, 233472}, {10, 0, 2048, 233472}, {12, 0, 1536, 102400}};

int main() {
  int arch, registers, threads, fixed, dynamic;
  while (scanf("%d %d %d %d %d", &arch, &registers, &threads, &fixed, &dynamic) == 5) {
    for (const Device& d : kDevices) {
      if (d.major * 10 + d.minor != arch) continue;
      cudaOccDeviceProp p{};
      p.computeMajor = d.major;
      p.computeMinor = d.minor;
      p.maxThreadsPerBlock = 1024;
      p.maxThreadsPerMultiprocessor = d.threads;
      p.regsPerBlock = p.regsPerMultiprocessor = 65536;
      p.warpSize = 32;
      p.sharedMemPerBlock = 49152;
      p.sharedMemPerMultiprocessor = d.shared;
      p.sharedMemPerBlockOptin = d.shared - 1024;
      p.reservedSharedMemPerBlock = 1024;
      p.numSms = 1;
      cudaOccFuncAttributes f{};
      f.maxThreadsPerBlock = 1024;
      f.numRegs = registers;
      f.sharedSizeBytes = fixed;
      f.partitionedGCConfig = PARTITIONED_GC_OFF;
      f.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
      f.maxDynamicSharedSizeBytes = p.sharedMemPerBlockOptin - fixed;
      f.numBlockBarriers = 1;
      cudaOccDeviceState s{};
      s.cacheConfig = CACHE_PREFER_NONE;
      s.carveoutConfig = -1;
      cudaOccResult r{};
      cudaOccMaxActiveBlocksPerMultiprocessor(&r, &p, &f, &s, threads, dynamic);
      printf("%d %d\n", r.activeBlocksPerMultiprocessor, d.threads);
    }
  }
}

// Device memory for drivers that run on a GPU: see route.cu.
#pragma once

#include <cstdint>

namespace gpu_route {

// Device memory full of 0xff between guards of the same; the guards are looked at when it is freed, after the device
// is done, and route_finish() then tells of a launcher that wrote beyond its scratch memory.
void* allocate_guarded(int64_t bytes);
void free_guarded(void* inner, int64_t bytes);

}  // namespace gpu_route

// What the CUDA library says about itself; without a driver it is never loaded.
#include "common/marker.h"

VLMADAPT_MARKER(vlmadapt_cuda_archs, "cuda-archs", VLMADAPT_CUDA_ARCHS);

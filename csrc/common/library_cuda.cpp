// What the CUDA library says about itself. Read from the file, since without a driver it is never loaded.
#define VLMADAPT_TEXT_OF(...) #__VA_ARGS__
#define VLMADAPT_TEXT(...) VLMADAPT_TEXT_OF(__VA_ARGS__)

namespace vlmadapt {

extern "C" __attribute__((visibility("default"), used)) const char vlmadapt_cuda_archs[] =
    "vlmadapt-cuda-archs:" VLMADAPT_TEXT(VLMADAPT_CUDA_ARCHS);

}  // namespace vlmadapt

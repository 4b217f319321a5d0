"""The Python side of tests/cuda_on_cpu: find tools, build libraries, run kernels in a worker process, compare."""

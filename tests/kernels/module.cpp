// The raw CPU kernels for NumPy, at any instruction-set level: tests below torch.
#include "raw.h"

PYBIND11_MODULE(raw_kernels, m) {
  bind_levels(m);
  bind_attention_column_sums(m);
  bind_cache_retrieval(m);
  bind_hetero_aggregate(m);
  bind_p_laplacian(m);
}

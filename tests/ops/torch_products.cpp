// The products that the chunked route of cache_retrieval asks torch for, as an operator that a CPU has too.
#include "cache_retrieval_chunked/torch_products.h"

namespace {

using namespace vlmadapt;
using cache_retrieval::Matrix;

Matrix matrix_of(const Tensor& stored, bool transposed) {
  const Dtype dtype = dtype_of(stored, "a matrix");
  const int64_t rows = stored.size(transposed ? 1 : 0), columns = stored.size(transposed ? 0 : 1);
  return {stored.const_data_ptr(), dtype, rows, columns, transposed};
}

void multiply(Tensor left, Tensor right, Tensor out, bool left_transposed, bool right_transposed) {
  cache_retrieval::TorchProducts products(left);
  products.multiply(matrix_of(left, left_transposed), matrix_of(right, right_transposed), out.mutable_data_ptr());
}

}  // namespace

STABLE_TORCH_LIBRARY(vlmadapt_products, m) {
  m.def("multiply(Tensor left, Tensor right, Tensor(a!) out, bool left_transposed, bool right_transposed) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(vlmadapt_products, CompositeExplicitAutograd, m) { m.impl("multiply", TORCH_BOX(&multiply)); }

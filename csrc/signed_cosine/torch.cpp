// The operator as torch calls it. On other devices Python selects with torch's own sort.
#include <tuple>

#include "common/torch_binding.h"
#include "signed_cosine/kernel.h"

namespace vlmadapt::signed_cosine {

namespace {

template <class T>
void run(const Tensor& tile, Tensor& columns, Tensor& values, int64_t k, int64_t first_row, bool skip_diagonal) {
  const void* data = checked(tile, "tile", tile.scalar_type(), {tile.size(0), tile.size(1)}, tile);
  top_k_cpu(
      TopKParams<T>{static_cast<const T*>(data), tile.size(0), tile.size(1), k, first_row, skip_diagonal,
                    static_cast<int64_t*>(columns.mutable_data_ptr()), static_cast<T*>(values.mutable_data_ptr())},
      torch_parallel());
}

std::tuple<Tensor, Tensor> select(Tensor tile, int64_t k, int64_t first_row, bool skip_diagonal) {
  const int64_t rows = tile.size(0), width = tile.size(1);
  const bool crossed = skip_diagonal && first_row < width && first_row + rows > 0;
  if (k < 0 || k > width - (crossed ? 1 : 0)) throw std::out_of_range("k must not exceed the entries of a row");
  Tensor columns = new_tensor(tile, {rows, k}, ScalarType::Long);
  Tensor values = new_tensor(tile, {rows, k}, tile.scalar_type());
  if (dtype_of(tile, "tile") == Dtype::f64)
    run<double>(tile, columns, values, k, first_row, skip_diagonal);
  else if (dtype_of(tile, "tile") == Dtype::f32)
    run<float>(tile, columns, values, k, first_row, skip_diagonal);
  else
    throw std::invalid_argument("tile must be float32 or float64");
  return {columns, values};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(vlmadapt, m) {
  m.def(
      "signed_cosine_top_k(Tensor tile, int k, int first_row, bool skip_diagonal) -> (Tensor columns, Tensor values)");
}

STABLE_TORCH_LIBRARY_IMPL(vlmadapt, CPU, m) { m.impl("signed_cosine_top_k", TORCH_BOX(&select)); }

}  // namespace vlmadapt::signed_cosine

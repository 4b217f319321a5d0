#include "cache_retrieval/kernel.h"
#include "raw.h"

namespace {

cache_retrieval::Side side_of(const py::array& queries, const py::array& keys, const py::array& scale,
                              const py::array& center) {
  return {queries.data(), keys.data(), {scale.data()}, {center.data()}, queries.shape(1)};
}

// `half` names the storage of 16-bit payloads, and of float32 what may stand for it.
cache_retrieval::Float32 float32_of(const std::string& half) {
  using cache_retrieval::Float32;
  return half == "f32 as two" ? Float32::two_bf16 : half == "f32 as one" ? Float32::bf16 : Float32::exact;
}

py::tuple forward(const std::string& isa, const std::string& half, const py::array& queries, const py::array& keys,
                  const py::array& scale, const py::array& center, const Indices& order, const Indices& offsets,
                  const std::optional<py::array>& text_queries, const std::optional<py::array>& text_keys,
                  const std::optional<py::array>& ratio, bool text_per_class, const std::optional<Indices>& own_entry,
                  bool mask_own_scores, bool store_similarities, bool as_affinities) {
  cache_retrieval::ForwardParams p{};
  p.dtype = dtype_of(queries, half);
  p.num_queries = queries.shape(0);
  p.num_entries = keys.shape(0);
  p.num_classes = offsets.size() - 1;
  p.order = order.data();
  p.offsets = offsets.data();
  p.image = side_of(queries, keys, scale, center);
  if (text_queries) p.text = side_of(*text_queries, *text_keys, scale, center);
  p.text_per_class = text_per_class;
  p.ratio = {pointer(ratio)};
  p.own_entry = pointer(own_entry);
  p.mask_own_scores = mask_own_scores;
  py::array scores = new_array(p.dtype, {queries.shape(0), p.num_classes});
  py::array disagreement = new_array(p.dtype, {queries.shape(0)});
  p.scores = scores.mutable_data();
  p.disagreement = disagreement.mutable_data();
  const bool store_text = store_similarities && text_queries && !text_per_class;
  const auto new_kept = [&](bool wanted) {
    const std::vector<py::ssize_t> shape{wanted ? keys.shape(0) : 0, queries.shape(0)};
    return as_affinities ? py::array(py::array_t<uint16_t>(shape)) : new_array(p.dtype, shape);
  };
  p.kept_as = as_affinities ? cache_retrieval::Kept::affinities : cache_retrieval::Kept::similarities;
  py::array kept = new_kept(store_similarities), text_kept = new_kept(store_text);
  if (store_similarities) p.kept = kept.mutable_data();
  if (store_text) p.text_kept = text_kept.mutable_data();
  cache_retrieval::forward_cpu(p, float32_of(half), std_parallel(), isa_of(isa));
  return py::make_tuple(scores, disagreement, kept, text_kept);
}

py::tuple backward(const std::string& isa, const std::string& half, const py::array& grad_scores,
                   const py::array& queries, const py::array& keys, const py::array& scale, const py::array& center,
                   const Indices& labels, const std::optional<py::array>& weight,
                   const std::optional<py::array>& multiplicity, const std::optional<Indices>& own_key,
                   const std::optional<py::array>& kept, bool narrow) {
  cache_retrieval::BackwardParams p{};
  p.dtype = dtype_of(queries, half);
  p.num_queries = queries.shape(0);
  p.num_keys = keys.shape(0);
  p.num_classes = grad_scores.shape(1);
  p.labels = labels.data();
  p.multiplicity = pointer(multiplicity);
  p.own_key = pointer(own_key);
  p.side = side_of(queries, keys, scale, center);
  p.weight = {pointer(weight)};
  p.grad_scores = grad_scores.data();
  p.kept = pointer(kept);
  const bool affinities = kept && kept->itemsize() == sizeof(uint16_t);
  p.kept_as = affinities ? cache_retrieval::Kept::affinities : cache_retrieval::Kept::similarities;
  p.narrow_gradients = narrow;
  const auto new_gradient = [&](py::ssize_t rows) {
    const std::vector<py::ssize_t> shape{rows, queries.shape(1)};
    return narrow ? py::array(queries.dtype(), shape) : new_array(p.dtype, shape);
  };
  py::array results[] = {new_gradient(queries.shape(0)), new_gradient(keys.shape(0)),
                         new_array(p.dtype, {queries.shape(0)}), new_array(p.dtype, {queries.shape(0)}),
                         new_array(p.dtype, {queries.shape(0)})};
  p.grad_queries = results[0].mutable_data();
  p.grad_keys = results[1].mutable_data();
  if (!affinities) {
    p.grad_scale = results[2].mutable_data();
    p.grad_center = results[3].mutable_data();
    p.grad_weight = results[4].mutable_data();
  }
  cache_retrieval::backward_cpu(p, float32_of(half), std_parallel(), isa_of(isa));
  return py::make_tuple(results[0], results[1], results[2], results[3], results[4]);
}

py::array dense(const std::string& isa, const std::string& half, const py::array& queries, const py::array& keys,
                const py::array& scale, const py::array& center, const py::array& values,
                const std::optional<Indices>& own_key) {
  cache_retrieval::DenseForwardParams p{};
  p.dtype = dtype_of(queries, half);
  p.num_queries = queries.shape(0);
  p.num_keys = keys.shape(0);
  p.num_classes = values.shape(1);
  p.side = side_of(queries, keys, scale, center);
  p.values = values.data();
  p.own_key = pointer(own_key);
  py::array scores = new_array(p.dtype, {queries.shape(0), values.shape(1)});
  p.scores = scores.mutable_data();
  cache_retrieval::dense_forward_cpu(p, float32_of(half), std_parallel(), isa_of(isa));
  return scores;
}

py::tuple dense_backward(const std::string& isa, const std::string& half, const py::array& grad_scores,
                         const py::array& queries, const py::array& keys, const py::array& scale,
                         const py::array& center, const py::array& values, const std::optional<Indices>& own_key) {
  cache_retrieval::BackwardParams p{};
  p.dtype = dtype_of(queries, half);
  p.num_queries = queries.shape(0);
  p.num_keys = keys.shape(0);
  p.num_classes = grad_scores.shape(1);
  p.dense = true;
  p.values = values.data();
  p.own_key = pointer(own_key);
  p.side = side_of(queries, keys, scale, center);
  p.grad_scores = grad_scores.data();
  py::array matrices[] = {new_array(p.dtype, {queries.shape(0), queries.shape(1)}),
                          new_array(p.dtype, {keys.shape(0), queries.shape(1)}),
                          new_array(p.dtype, {keys.shape(0), values.shape(1)})};
  py::array vectors[] = {new_array(p.dtype, {queries.shape(0)}), new_array(p.dtype, {queries.shape(0)}),
                         new_array(p.dtype, {queries.shape(0)})};
  p.grad_queries = matrices[0].mutable_data();
  p.grad_keys = matrices[1].mutable_data();
  p.grad_values = matrices[2].mutable_data();
  p.grad_scale = vectors[0].mutable_data();
  p.grad_center = vectors[1].mutable_data();
  p.grad_weight = vectors[2].mutable_data();
  cache_retrieval::backward_cpu(p, float32_of(half), std_parallel(), isa_of(isa));
  return py::make_tuple(matrices[0], matrices[1], matrices[2], vectors[0], vectors[1]);
}

py::array scores_of_betas(const std::string& isa, const std::string& half, const py::array& queries,
                          const py::array& keys, const Indices& order, const Indices& offsets, const py::array& betas) {
  cache_retrieval::GridParams p{};
  p.dtype = dtype_of(queries, half);
  p.num_queries = queries.shape(0);
  p.num_entries = keys.shape(0);
  p.num_classes = offsets.size() - 1;
  p.width = queries.shape(1);
  p.num_betas = betas.size();
  p.order = order.data();
  p.offsets = offsets.data();
  p.queries = queries.data();
  p.keys = keys.data();
  p.betas = betas.data();
  py::array scores = new_array(p.dtype, {betas.size(), queries.shape(0), p.num_classes});
  p.scores = scores.mutable_data();
  cache_retrieval::grid_cpu(p, float32_of(half), std_parallel(), isa_of(isa));
  return scores;
}

}  // namespace

void bind_cache_retrieval(py::module_& m) {
  using namespace py::literals;
  m.def("cache_retrieval", &forward, "isa"_a, "half"_a, "queries"_a, "keys"_a, "scale"_a, "center"_a, "order"_a,
        "offsets"_a, "text_queries"_a = py::none(), "text_keys"_a = py::none(), "ratio"_a = py::none(),
        "text_per_class"_a = false, "own_entry"_a = py::none(), "mask_own_scores"_a = false,
        "store_similarities"_a = false, "as_affinities"_a = false);
  m.def("cache_retrieval_backward", &backward, "isa"_a, "half"_a, "grad_scores"_a, "queries"_a, "keys"_a, "scale"_a,
        "center"_a, "labels"_a, "weight"_a = py::none(), "multiplicity"_a = py::none(), "own_key"_a = py::none(),
        "kept"_a = py::none(), "narrow"_a = false);
  m.def("cache_retrieval_dense", &dense, "isa"_a, "half"_a, "queries"_a, "keys"_a, "scale"_a, "center"_a, "values"_a,
        "own_key"_a = py::none());
  m.def("cache_retrieval_dense_backward", &dense_backward, "isa"_a, "half"_a, "grad_scores"_a, "queries"_a, "keys"_a,
        "scale"_a, "center"_a, "values"_a, "own_key"_a = py::none());
  m.def("cache_retrieval_multi_beta", &scores_of_betas, "isa"_a, "half"_a, "queries"_a, "keys"_a, "order"_a,
        "offsets"_a, "betas"_a);
}

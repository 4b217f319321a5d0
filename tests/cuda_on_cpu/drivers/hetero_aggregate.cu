// The launcher of hetero_aggregate for Python. The workspace is poisoned and of the exact size.
#include <cstdlib>

#include "drivers/scratch_memory.h"
#include "hetero_aggregate/cuda.cu"

namespace {
template <class T>
T* moved_back(T* p, int64_t bytes) {
  return p ? reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(p) - static_cast<uintptr_t>(bytes)) : nullptr;
}
}  // namespace

// sizes: dtype, index type, rows, width, relations, matrices, stacked, far rows, far edges, then a relation: its
//        matrix, then a matrix: its rows, then a relation: its edges. Far: how many rows or edges lie before those that
//        are given, nowhere. Indices and offsets count them, and the pointers are moved back by as much: only a 64-bit
//        offset finds the memory.
// pointers: out, own, then a relation: offsets, columns, edges, weights, coefficient, grad weights, grad coefficient,
//           then the matrices
extern "C" int hetero_aggregate(const int64_t* n, void* const* p) {
  using namespace vlmadapt::hetero_aggregate;
  AggregateParams job{};
  job.dtype = static_cast<vlmadapt::Dtype>(n[0]);
  job.index = static_cast<Index>(n[1]);
  job.num_rows = n[2];
  job.width = n[3];
  const int64_t num_relations = n[4], num_matrices = n[5], far_rows = n[7], far_edges = n[8];
  const int64_t index_bytes = job.index == Index::i64 ? 8 : 4;
  auto* relations = static_cast<Relation*>(calloc(num_relations, sizeof(Relation)));
  auto* matrices = static_cast<Matrix*>(calloc(num_matrices, sizeof(Matrix)));
  for (int64_t r = 0; r < num_relations; ++r) {
    void* const* q = p + 2 + 7 * r;
    relations[r].offsets = static_cast<const int64_t*>(q[0]);
    relations[r].columns = moved_back(q[1], far_edges * index_bytes);
    relations[r].edges = moved_back(q[2], far_edges * index_bytes);
    relations[r].weights = moved_back(q[3], far_edges * accum_bytes(job.dtype));
    relations[r].coefficient = q[4];
    relations[r].grad_weights = moved_back(q[5], far_edges * accum_bytes(job.dtype));
    relations[r].grad_coefficient = q[6];
    relations[r].matrix = n[9 + r];
    relations[r].num_edges = n[9 + num_relations + num_matrices + r];
  }
  for (int64_t m = 0; m < num_matrices; ++m)
    matrices[m] = {moved_back(p[2 + 7 * num_relations + m], far_rows * job.width * element_bytes(job.dtype)),
                   far_rows + n[9 + num_relations + m]};
  job.num_matrices = num_matrices;
  job.matrices = matrices;
  job.num_relations = num_relations;
  job.relations = relations;
  job.stacked = n[6] != 0;
  job.out = p[0];
  job.own = p[1];
  const ScratchMemory workspace(aggregate_workspace(job));
  const cudaError_t error = aggregate_cuda(job, workspace.bytes, nullptr);
  free(relations);
  free(matrices);
  return error;
}

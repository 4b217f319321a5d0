// The launcher of hetero_aggregate for Python. The workspace is allocated here, poisoned and of the exact size.
#include <cstdlib>
#include <cstring>

#include "hetero_aggregate/cuda.cu"

// sizes: dtype, index type, rows, width, relations, matrices, stacked, then a relation: its matrix, then a matrix: its
//        rows
// pointers: out, own, then a relation: offsets, columns, edges, weights, coefficient, grad weights, grad coefficient,
//           then the matrices
extern "C" int hetero_aggregate(const int64_t* n, void* const* p) {
  using namespace vlmadapt::hetero_aggregate;
  const int64_t num_relations = n[4], num_matrices = n[5];
  auto* relations = static_cast<Relation*>(calloc(num_relations, sizeof(Relation)));
  auto* matrices = static_cast<Matrix*>(calloc(num_matrices, sizeof(Matrix)));
  for (int64_t r = 0; r < num_relations; ++r) {
    void* const* q = p + 2 + 7 * r;
    relations[r].offsets = static_cast<const int64_t*>(q[0]);
    relations[r].columns = q[1];
    relations[r].edges = q[2];
    relations[r].weights = q[3];
    relations[r].coefficient = q[4];
    relations[r].grad_weights = q[5];
    relations[r].grad_coefficient = q[6];
    relations[r].matrix = n[7 + r];
  }
  for (int64_t m = 0; m < num_matrices; ++m) matrices[m] = {p[2 + 7 * num_relations + m], n[7 + num_relations + m]};
  Job job{};
  job.dtype = static_cast<vlmadapt::Dtype>(n[0]);
  job.index = static_cast<Index>(n[1]);
  job.num_rows = n[2];
  job.width = n[3];
  job.num_matrices = num_matrices;
  job.matrices = matrices;
  job.num_relations = num_relations;
  job.relations = relations;
  job.stacked = n[6] != 0;
  job.out = p[0];
  job.own = p[1];
  const int64_t bytes = aggregate_workspace(job);
  void* workspace = malloc(bytes > 0 ? bytes : 1);
  memset(workspace, 0xff, bytes > 0 ? bytes : 1);
  const cudaError_t error = aggregate_cuda(job, workspace, nullptr);
  free(workspace);
  free(relations);
  free(matrices);
  return error;
}

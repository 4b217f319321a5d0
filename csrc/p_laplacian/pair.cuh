// The gradients of one pair of a query and a key, from what the tiles of backward.cuh hold (formulas in kernel.h).
#pragma once

#include "p_laplacian/device.cuh"

namespace vlmadapt::p_laplacian {

// One pair, from its score or attention, squared distance, sum of differences (released), grad_out . x_value and
// grad_context . value. Scores and lse are in units of log 2; so is what grad_p holds, which is twice too large.
template <class T, bool from_scores>
struct Pair {
  T attention, weight, e, constant, grad, grad_p;

  __device__ __forceinline__ Pair(const Problem& p, T exponent, bool exists, bool self, T score, T squared, T shift,
                                  T upstream, T context, T lse, T a, T own, T delta)
      : attention(0), weight(0), e(0), constant(0), grad(0), grad_p(0) {
    if (!exists) return;
    const T h = exponent / 2, g = h - 1;
    const bool plain = exponent == T(2), near = !p.released && squared < Limits<T>::coincidence;
    const T safe = near ? T(1) : squared;
    bool dropped = self || (near && !plain);
    T q = safe, root = T(0), length;
    if (from_scores) {
      T x = score - lse;
      x = x < T(-1e4) ? T(-1e4) : x;  // zero all the same, but finite
      attention = power_of_two(x);
      const T log_squared = log_to_two(safe);
      weight = plain ? attention : power_of_two(h * x + g * log_squared);
      length = x + log_squared;
    } else {
      attention = score;
      dropped = dropped || score == T(0);
      q *= score;
      if (p.released) {
        const T eps = static_cast<T>(p.eps);
        root = score > T(0) ? sqrt(score) : T(0);
        q += T(2) * eps * root * shift + static_cast<T>(p.features) * eps * eps;
      }
      q = q < Limits<T>::smallest ? Limits<T>::smallest : q;
      length = log_to_two(q);
      weight = plain ? score : score * power_of_two(g * length);
    }
    weight = dropped ? T(0) : weight;
    const T u = weight * (a * upstream - own);
    grad_p = near ? T(0) : u * length;
    if (from_scores) {
      grad = h * u + attention * (context - delta);
      e = quotient(2 * g * u, safe);
    } else if (dropped) {
      return;
    } else if (p.released) {
      const T through = quotient(g * u, q), eps = static_cast<T>(p.eps);
      grad = quotient(u, score) + through * (squared + quotient(eps * shift, root));
      e = 2 * through * score;
      constant = 2 * through * eps * root;
    } else {
      grad = quotient(h * u, score);
      e = quotient(2 * g * u, safe);
    }
  }
};

}  // namespace vlmadapt::p_laplacian

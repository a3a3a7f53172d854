"""Exact nearest neighbours between two sets of descriptors, both ways, without a matrix of their similarities.

Of the N x M similarities only the best two of each row and of each column are wanted, and writing all of them to
memory would take longer than computing them. As in a matrix product of a BLAS library there are two levels:

- A **panel** (`panels`) is 32 descriptors of B side by side, a (D, 32) matrix: one dimension of all of them is two
  vectors of 16 numbers. Four panels stay in the first-level cache while all rows of A pass by (`kernels`).
- The **micro-kernel** (`micro_kernel`) takes four rows of A and one panel. The 4 x 32 sums stay in registers over
  all dimensions and are merged into the best of rows and columns at once. Every sum is taken in the order of the
  dimensions, products and sums fused where the processor can: its bits depend on the two descriptors alone.

The micro-kernel is written in the language of LLVM (`llvm_tiles`), since loops that numba compiles store every sum
once a dimension. Where that cannot be had, plain loops (`plain_tiles`) give the same bits, several times slower.
Where two candidates are closer than float32 rounding can explain, float64 decides (`kernels.break_ties`).
"""

from __future__ import annotations

from delf_engine.matching.descriptors import (
    Matches,
    PreparedDescriptors,
    match_descriptors,
    match_prepared,
)

__all__ = ["Matches", "PreparedDescriptors", "match_descriptors", "match_prepared"]

"""Microbenchmarks of the kernels, and their compilation without a GPU."""

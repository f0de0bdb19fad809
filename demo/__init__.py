"""The generated town that `make demo`, the tests and the benchmarks draw their photos from."""

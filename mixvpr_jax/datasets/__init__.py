"""The field's benchmarks, read from the layouts that users have, each held to its protocol."""

from mixvpr_jax.datasets.benchmarks import read_benchmark
from mixvpr_jax.datasets.folders import read_folder_pair, unlike_benchmarks
from mixvpr_jax.datasets.protocols import BENCHMARKS

__all__ = ["BENCHMARKS", "read_benchmark", "read_folder_pair", "unlike_benchmarks"]

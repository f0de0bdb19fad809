"""The field's benchmarks, read from the layouts that users have, each held to its protocol."""

from mixvpr_jax.datasets.benchmarks import read_benchmark
from mixvpr_jax.datasets.evaluation_set import BENCHMARKS
from mixvpr_jax.datasets.folders import read_folder_pair, unlike_benchmarks

__all__ = ["BENCHMARKS", "read_benchmark", "read_folder_pair", "unlike_benchmarks"]

"""The field's benchmarks, read from the layouts that users have, each held to its protocol."""

from mixvpr_jax.data.benchmarks.labelled import read_folder_pair, unlike_benchmarks
from mixvpr_jax.data.benchmarks.protocols import BENCHMARKS
from mixvpr_jax.data.benchmarks.read import read_benchmark

__all__ = ["BENCHMARKS", "read_benchmark", "read_folder_pair", "unlike_benchmarks"]

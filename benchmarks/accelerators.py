"""What is published of accelerators, and what is assumed of their networks, for scaling.py.

Sources: cloud.google.com/tpu/docs/v5e, …/v5p and …/v6e (peak, memory, chips a host and a pod);
nvidia.com/en-us/data-center/h100 (SXM, without sparsity); "How To Scale Your Model" (Austin et al.,
2025, jax-ml.github.io/scaling-book), parts 2 "TPUs" (links, host and data centre network), 3
"Sharding" (costs of collectives, a microsecond a hop) and 12 "GPUs" (NVLink and InfiniBand).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Accelerator:
    """An accelerator, in FLOP/s, bytes and bytes/s.

    Attributes:
        name: What it is called.
        bfloat16: Peak of products in bfloat16.
        float32: Peak of products with `Precision.HIGHEST`: on a TPU six in bfloat16.
        memory: HBM.
        bandwidth: Of HBM.
        from_host: Of the link to the host, for each device.
        per_host: Devices of a host.
        cores: Processor cores of such a host, half of its vCPUs on Google Cloud.
        island: Devices that are linked directly: a TPU's pod, a host's GPUs.
        link: What a device sends inside: a TPU along both axes and both ways, a GPU by NVLink.
        outside: Each device's share of the network between islands.
    """

    name: str
    bfloat16: float
    float32: float
    memory: float
    bandwidth: float
    from_host: float
    per_host: int
    cores: int
    island: int
    link: float
    outside: float

    def gather_seconds(self, size: float, devices: int) -> float:
        """Until each of so many devices has these bytes, of which it had its share.

        As long as adding up and dividing takes, and half of adding up for all. Parts from other
        islands are received once an island, by all its devices together, and then passed on.
        """
        inside = min(devices, self.island)
        islands = devices // inside
        # A pod's axes are rings only where it is whole.
        link = self.link / 2 if self._torus and inside < self.island else self.link
        within = size * (1 - 1 / inside) / link
        return within + size * (1 - 1 / islands) / (inside * self.outside)

    def sum_latency(self, devices: int) -> float:
        """Of adding up a few numbers over all devices, in seconds."""
        inside = min(devices, self.island)
        across = OUTSIDE_LATENCY if devices > inside else 0.0
        if not self._torus:
            return NVLINK_LATENCY + across
        rows = 1 << (inside.bit_length() - 1) // 2  # 2x4, 8x8, 16x16
        columns = inside // rows
        hops = (rows + columns) // 2 if inside == self.island else rows + columns - 2
        return 2 * HOP_LATENCY * hops + across

    @property
    def _torus(self) -> bool:
        return self.island > self.per_host


HOP_LATENCY = 1e-6  # "Sharding"
NVLINK_LATENCY = 20e-6  # assumed
OUTSIDE_LATENCY = 50e-6  # assumed, of a sum over islands

ACCELERATORS = (
    Accelerator("TPU v5e", 197e12, 197e12 / 6, 16e9, 819e9, 1.6e10, 8, 112, 256, 2 * 9e10, 3.125e9),
    Accelerator(
        "TPU v6e", 918e12, 918e12 / 6, 32e9, 1638e9, 3.2e10, 8, 90, 256, 2 * 1.8e11, 12.5e9
    ),
    Accelerator("H100", 989e12, 67e12, 80e9, 3350e9, 6.4e10, 8, 112, 8, 450e9, 50e9),
)
# Its pods are rings along three axes, which `gather_seconds` does not know: for compiled.py alone.
V5P = Accelerator(
    "TPU v5p", 459e12, 459e12 / 6, 95e9, 2765e9, 1.6e10, 4, 104, 8960, 3 * 1.8e11, 6.25e9
)

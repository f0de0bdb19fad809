"""What is published of accelerators, and what is assumed of their networks.

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
        island: Devices that are linked directly: a TPU's pod, a host's GPUs.
        link: What a device sends inside: a TPU along all axes and both ways, a GPU by NVLink.
        outside: Each device's share of the network between islands.
        axes: Of a TPU's links; 0 for GPUs.
    """

    name: str
    bfloat16: float
    float32: float
    memory: float
    bandwidth: float
    from_host: float
    island: int
    link: float
    outside: float
    axes: int

    def gather_seconds(self, size: float, devices: int) -> float:
        """Until each of so many devices has these bytes, of which it had its share.

        As long as adding up and dividing takes, and half of adding up for all. Parts from other
        islands are received once an island, by all its devices together, and then passed on.
        """
        inside = min(devices, self.island)
        islands = devices // inside
        # A pod's axes are rings only where it is whole.
        link = self.link / 2 if self.axes and inside < self.island else self.link
        within = size * (1 - 1 / inside) / link
        return within + size * (1 - 1 / islands) / (inside * self.outside)

    def sum_latency(self, devices: int) -> float:
        """Of adding up a few numbers over all devices, in seconds."""
        inside = min(devices, self.island)
        across = OUTSIDE_LATENCY if devices > inside else 0.0
        if not self.axes:
            return NVLINK_LATENCY + across
        exponent = inside.bit_length() - 1
        sides = [1 << (exponent + axis) // self.axes for axis in range(self.axes)]  # 2x4, 8x8, …
        hops = sum(side // 2 if inside == self.island else side - 1 for side in sides)
        return 2 * HOP_LATENCY * hops + across


HOP_LATENCY = 1e-6  # "Sharding"
NVLINK_LATENCY = 20e-6  # assumed
OUTSIDE_LATENCY = 50e-6  # assumed, of a sum over islands

ACCELERATORS = {
    "v5e": Accelerator(
        name="TPU v5e",
        bfloat16=197e12,
        float32=197e12 / 6,
        memory=16e9,
        bandwidth=819e9,
        from_host=1.6e10,
        island=256,
        link=2 * 9e10,
        outside=3.125e9,
        axes=2,
    ),
    "v5p": Accelerator(
        name="TPU v5p",
        bfloat16=459e12,
        float32=459e12 / 6,
        memory=95e9,
        bandwidth=2765e9,
        from_host=1.6e10,
        island=8960,
        link=3 * 1.8e11,
        outside=6.25e9,
        axes=3,
    ),
    "v6e": Accelerator(
        name="TPU v6e",
        bfloat16=918e12,
        float32=918e12 / 6,
        memory=32e9,
        bandwidth=1638e9,
        from_host=3.2e10,
        island=256,
        link=2 * 1.8e11,
        outside=12.5e9,
        axes=2,
    ),
    "h100": Accelerator(
        name="H100",
        bfloat16=989e12,
        float32=67e12,
        memory=80e9,
        bandwidth=3350e9,
        from_host=6.4e10,
        island=8,
        link=450e9,
        outside=50e9,
        axes=0,
    ),
}

"""What the devices of a compiled program say to each other, read off its HLO."""

import re
from collections import Counter
from math import prod

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
ITEM_BYTES = {"pred": 1, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "f32": 4, "f64": 8}
_FOUND = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start|)\(")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


def collectives(text):
    """The collectives of an optimized CPU program, by (kind, dtype, shape) of what each gives.

    One that XLA merged of several counts as these; axes of length 1 are left out of shapes.
    """
    found = Counter()
    for given, kind, start in _FOUND.findall(text):
        assert not start, f"asynchronous {kind}: its type names operands too"
        for dtype, sizes in _ARRAY.findall(given):
            found[kind, dtype, squeezed(int(size) for size in sizes.split(",") if size)] += 1
    return found


def num_operations(text):
    """How many collectives a device starts in a step, after XLA merged them."""
    return len(_FOUND.findall(text))


def squeezed(shape):
    """A shape without its axes of length 1."""
    return tuple(size for size in shape if size != 1)


def num_bytes(found):
    """Of all that these collectives give a device."""
    return sum(n * ITEM_BYTES[dtype] * prod(shape) for (_, dtype, shape), n in found.items())

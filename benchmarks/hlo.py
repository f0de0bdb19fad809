"""What an optimized program moves and sends, read off its HLO."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from math import prod
from typing import NamedTuple

ITEM_BYTES = {"pred": 1, "bf16": 2, "f16": 2}  # others by their name: f32, s8, u64
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all"}
COPIES = ("copy", "slice", "transpose", "reshape", "dynamic-slice", "concatenate", "pad")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"\b(pred|bf16|f\d+|s\d+|u\d+)\[([\d,]*)\]")
_ON_CHIP = re.compile(r"\w+\[[\d,]*\]\{[^}]*S\(\d+\)\}")  # TPUs: vector, scalar memory


class Instruction(NamedTuple):
    """A line of a computation."""

    name: str
    type: str
    operation: str
    operands: list[str]
    line: str


def instructions(text: str) -> Iterator[Instruction]:
    """Those of the entry computation, in order; a SparseCore's calls go by what they run."""
    bodies, called = _bodies(text), {}
    entry = text[text.index("\nENTRY ") :]
    for line in entry[: entry.index("\n}")].splitlines():
        if found := _INSTRUCTION.match(line):
            name, type_, operation, rest = found.groups()
            operands = re.findall(r"%([\w.\-]+)", rest[: _closing(rest)])
            if operation == "call-start":
                root = re.search(r"ROOT .*? ([\w\-]+)\(", _body(bodies, rest))
                called[name] = root[1] if root else "call"
                operation = f"{called[name]}-start"
            elif operation == "call-done":
                operation = f"{called[operands[0]]}-done"
            yield Instruction(name, type_, operation, operands, rest)


def bytes_by_class(text: str) -> Counter[str]:
    """Bytes of the device's memory, not of on-chip memory, that are read and written.

    Classes: products, reductions, copies, collectives, other. An asynchronous operation moves what
    it gives.
    """
    bodies, sizes, moved = _bodies(text), {}, Counter()
    for name, type_, operation, operands, line in instructions(text):
        read = sum(sizes.get(operand, 0) for operand in operands)
        written = sizes[name] = _num_bytes(_ON_CHIP.sub("", type_))
        if operation.endswith("-start"):  # its type names the whole of what it takes a slice of
            sizes[name] = read
        elif operation.endswith("-done"):
            kind = _class_of(operation, line, _body(bodies, line))
            moved[kind] += written + min(read, _num_bytes(type_))
        elif operation not in FREE and '"ConcatBitcast"' not in line:
            moved[_class_of(operation, line, _body(bodies, line))] += read + written
    return moved


def collectives(text: str) -> Counter[tuple[str, str, tuple[int, ...]]]:
    """The collectives by (kind, dtype, shape) of what each gives, without axes of length 1.

    One that XLA merged of several counts as these. For programs without asynchronous ones.
    """
    return Counter(
        (operation, dtype, squeezed(_shape(sizes)))
        for _, type_, operation, *_ in instructions(text)
        if operation in COLLECTIVES
        for dtype, sizes in _ARRAY.findall(type_)
    )


def collective_bytes(found: Counter[tuple[str, str, tuple[int, ...]]]) -> Counter[str]:
    """The bytes that collectives give a device, by kind."""
    given = Counter()
    for (kind, dtype, shape), count in found.items():
        given[kind] += count * _item_bytes(dtype) * prod(shape)
    return given


def collective_counts(text: str) -> tuple[int, int]:
    """How many collectives there are, and the longest chain that waits for one another."""
    chain: dict[str, int] = {}
    count = 0
    for name, _, operation, operands, _ in instructions(text):
        starts = operation.removesuffix("-start") in COLLECTIVES
        count += starts
        chain[name] = starts + max((chain.get(operand, 0) for operand in operands), default=0)
    return count, max(chain.values(), default=0)


def overlapping(text: str) -> int:
    """How many collectives are under way while a product runs, in the order of the schedule."""
    bodies, under_way, beside = _bodies(text), set(), set()
    for name, _, operation, operands, line in instructions(text):
        if operation.endswith("-start") and operation.removesuffix("-start") in COLLECTIVES:
            under_way.add(name)
        elif operation.endswith("-done"):
            under_way -= set(operands)
        elif _class_of(operation, line, _body(bodies, line)) == "products":
            beside |= under_way
    return len(beside)


def squeezed(shape: Iterable[int]) -> tuple[int, ...]:
    """A shape without its axes of length 1."""
    return tuple(size for size in shape if size != 1)


def _bodies(text: str) -> dict[str, str]:
    """The text of each computation, by its name."""
    return dict(re.findall(r"\n%?([\w.\-]+) \([^\n]*\{\n(.*?)\n\}", text, re.DOTALL))


def _body(bodies: dict[str, str], line: str) -> str:
    """That of the computation that an instruction calls."""
    called = re.search(r"(?:calls|to_apply)=%?([\w.\-]+)", line)
    return bodies.get(called[1], "") if called else ""


def _class_of(operation: str, line: str, body: str) -> str:
    operation = re.sub("-(start|done)$", "", operation)
    if operation in COLLECTIVES:
        return "collectives"
    if re.search(r"__cublas|__cudnn", line) or re.search(r"\b(convolution|dot)\(", body):
        return "products"
    if operation in ("convolution", "dot"):
        return "products"
    if operation == "reduce" or re.search(r" reduce\(", body):
        return "reductions"
    if operation in COPIES or " transpose(" in body:
        return "copies"
    return "other"


def _num_bytes(type_: str) -> int:
    return sum(_item_bytes(dtype) * prod(_shape(sizes)) for dtype, sizes in _ARRAY.findall(type_))


def _item_bytes(dtype: str) -> int:
    return ITEM_BYTES.get(dtype) or int(dtype[1:]) // 8


def _shape(sizes: str) -> list[int]:
    return [int(size) for size in sizes.split(",") if size]


def _closing(text: str) -> int:
    """Where the parenthesis closes that was opened before the text."""
    depth = 1
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return place
    return len(text)

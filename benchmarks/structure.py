"""How large the package is, and how its modules depend on one another, revision by revision.

python benchmarks/structure.py 2000a77 HEAD
"""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory

import networkx as nx
import tyro

ROOT = Path(__file__).parent.parent
PACKAGE = "mixvpr_jax"


def main(revisions: tyro.conf.Positional[tuple[str, ...]] = ("HEAD",), rounds: int = 5) -> None:
    """Prints a table in Markdown, a column a revision.

    Args:
        revisions: Commits of this repository.
        rounds: How often each command is timed; the least counts.
    """
    columns = [measure(revision, rounds) for revision in revisions]
    print("| package |", " | ".join(revisions), "|")
    print("| --- |", " | ".join("---:" for _ in columns), "|")
    for name in columns[0]:
        print(f"| {name} |", " | ".join(column[name] for column in columns), "|")


def measure(revision: str, rounds: int) -> dict[str, str]:
    """The figures of one revision, by the table's row."""
    archive = subprocess.run(
        ["git", "archive", revision], cwd=ROOT, check=True, capture_output=True
    ).stdout
    with TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        root = Path(folder)
        modules = {name_of(path, root): path for path in sorted((root / PACKAGE).rglob("*.py"))}
        lines = {name: len(path.read_text().splitlines()) for name, path in modules.items()}
        functions = [length for path in modules.values() for length in function_lengths(path)]
        graph = imports(modules)
        rooms = nx.quotient_graph(graph, by_room(graph))
        page = sum(
            len(path.read_text().splitlines())
            for path in (root / PACKAGE).rglob("page/*")
            if path.suffix in (".js", ".css", ".html")
        )
        longest = max(lines, key=lambda name: lines[name])
        circles = [found for found in nx.strongly_connected_components(graph) if len(found) > 1]
        return {
            "lines of Python": f"{sum(lines.values()):,}",
            "lines of the report's page": f"{page:,}",
            "modules": str(len(modules)),
            "modules with one importer": str(sum(n == 1 for _, n in graph.in_degree())),
            "rooms (folders, and modules beside them)": str(len(rooms)),
            "floors (the longest chain of rooms)": str(floors(rooms)),
            "arrows between rooms": str(rooms.number_of_edges()),
            "circles of modules": str(len(circles)),
            "longest module": f"{longest.removeprefix(PACKAGE + '.')}, {lines[longest]}",
            "length of a function, median": f"{median(functions):.0f}",
            "length of a function, 90th percentile": f"{quantiles(functions, n=10)[-1]:.0f}",
            "`import mixvpr_jax`": seconds(root, ["-c", f"import {PACKAGE}"], rounds),
            "`train.py --help`": seconds(root, ["train.py", "--help"], rounds),
            "`eval.py --help`": seconds(root, ["eval.py", "--help"], rounds),
        }


def name_of(path: Path, root: Path) -> str:
    """The dotted name of a module; a package's is its folder's."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def function_lengths(path: Path) -> Iterator[int]:
    """Lines of each function, docstring included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            yield node.end_lineno - node.lineno + 1


def imports(modules: dict[str, Path]) -> nx.DiGraph:
    """An edge from each module to each of the package's that it imports."""
    graph = nx.DiGraph()
    graph.add_nodes_from(modules)
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                found = {each if each in modules else node.module for each in whole}
            elif isinstance(node, ast.Import):
                found = {alias.name for alias in node.names}
            else:
                continue
            graph.add_edges_from((name, other) for other in found & modules.keys() - {name})
    graph.remove_node(PACKAGE)  # the face hands names on
    return graph


def by_room(graph: nx.DiGraph) -> dict[str, set[str]]:
    """Module names by room; commands are their own, which may use what lies above them."""
    rooms: dict[str, set[str]] = {}
    for name in graph:
        parts = name.split(".")
        rooms.setdefault("cli" if parts[-1] == "command" else parts[1], set()).add(name)
    return rooms


def floors(rooms: nx.DiGraph) -> int:
    """Rooms in the longest chain of imports, a circle counted as one."""
    return nx.dag_longest_path_length(nx.condensation(rooms)) + 1


def seconds(root: Path, arguments: list[str], rounds: int) -> str:
    """The least time of a Python process."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    taken = []
    for _ in range(rounds + 1):  # the first one compiles to bytecode
        since = time.perf_counter()
        subprocess.run(
            [sys.executable, *arguments], cwd=root, env=environment, check=True, capture_output=True
        )
        taken.append(time.perf_counter() - since)
    return f"{min(taken[1:]):.2f} s"


if __name__ == "__main__":
    tyro.cli(main)

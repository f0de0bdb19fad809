"""What mkdocs builds: pages keep their places in the repository, so links work there and here."""

import importlib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
OUTSIDE = (  # docs/ that pages or the navigation link to
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff"),
    *(
        "benchmarks/README.md",
        "benchmarks/compiled.md",
        "benchmarks/tried.md",
        "benchmarks/memory.py",
        "tests/golden/README.md",
    ),
    *("tests/golden/README.md", "notebooks/quickstart.ipynb", "notebooks/train_and_evaluate.ipynb"),
)
ROOMS = ("", ".conversion", ".datasets", ".losses", ".report", ".training")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Moves docs/ below docs/, adds pages beside it, and a page of reference for each room."""
    paths = [Path(file.src_uri) for file in files if file.src_dir == config.docs_dir]
    kept = [file for file in files if file.src_dir != config.docs_dir]  # the theme's
    for path in (*OUTSIDE, *(f"docs/{path}" for path in paths if path.suffix != ".py")):
        kept.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    for room in ROOMS:
        name = f"mixvpr_jax{room}"
        module = importlib.import_module(name)
        public = [f"::: {name}.{each}" for each in module.__all__ if not each.startswith("_")]
        content = "\n\n".join((f"# {name}", module.__doc__ or "", *public))
        kept.append(File.generated(config, f"reference/{name}.md", content=content))
    return Files(kept)

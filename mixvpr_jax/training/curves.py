"""Loss and recall over a run as a picture."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixvpr_jax.files import beside
from mixvpr_jax.stores import AnyPath
from mixvpr_jax.training.log import Entry, values_of

STYLES = {1: "-", 5: "--", 10: ":"}


def draw_curves(entries: Sequence[Entry], path: AnyPath) -> None:
    """Draws the loss with the batch accuracy, and the recalls of each set, over the steps.

    Args:
        entries: Those of metrics.jsonl.
        path: Where the PNG goes.
    """
    recalls = sorted({name for entry in entries for name in entry if "/recall@" in name}, key=_rank)
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, *right = figure.subplots(1, 2 if recalls else 1, squeeze=False)[0]
    _draw_training(left, entries)
    for axes in right:
        _draw_recalls(axes, entries, recalls)
    with beside(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw_recalls(axes: Axes, entries: Sequence[Entry], names: Sequence[str]) -> None:
    """A colour a set, a line style a k."""
    sets = sorted({name.split("/")[0] for name in names})
    for name in names:
        values, (dataset, k) = values_of(entries, name), _rank(name)
        (line,) = axes.plot(list(values), list(values.values()), marker=".")
        line.set(color=f"C{sets.index(dataset)}", linestyle=STYLES[k], label=f"{dataset} R@{k}")
    axes.set(xlabel="step", ylabel="recall (%)", ylim=(0, 102), title="Validation")
    axes.legend(frameon=False, loc="lower right", ncols=len(sets))
    axes.grid(alpha=0.25)


def _draw_training(axes: Axes, entries: Sequence[Entry]) -> None:
    loss, accuracy = values_of(entries, "loss"), values_of(entries, "batch_accuracy")
    axes.plot(list(loss), list(loss.values()), color="tab:red", linewidth=1)
    axes.set(xlabel="step", title="Training")
    axes.set_ylabel("loss", color="tab:red")
    axes.grid(alpha=0.25)
    twin = axes.twinx()
    twin.plot(list(accuracy), list(accuracy.values()), color="tab:blue", linewidth=1)
    twin.set_ylabel("batch accuracy", color="tab:blue")
    twin.set_ylim(0, 1.02)


def _rank(name: str) -> tuple[str, int]:
    dataset, _, k = name.partition("/recall@")
    return dataset, int(k)

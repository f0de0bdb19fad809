"""`mixvpr push WEIGHTS hf://organisation/repository` shares a model on the Hugging Face Hub."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from mixvpr_jax.errors import InputError, extra, importing, text_of
from mixvpr_jax.hub import FILES, parse_address
from mixvpr_jax.hub import push as write_to_hub
from mixvpr_jax.storage import as_path, is_local

CARD = "README.md"
_OPTIONS = re.compile(r"--(image-size|in-size|pool-size|key)\b")  # of the conversion alone
_CONVERT = "push has no such option: convert it first with mixvpr convert to-flax"


def push(
    weights: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WEIGHTS")],
    address: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ADDRESS")],
    results: tuple[str, ...] = (),
    private: bool = False,
    overwrite: bool = False,
    message: str = "A model of mixvpr-jax",
) -> None:
    """Shares a model on the Hugging Face Hub: weights, configuration and model card in one commit.

    Args:
        weights: A model or run folder, a released name, or a PyTorch checkpoint to convert.
        address: hf://organisation/repository, made if it is not there; …@branch for a branch.
        results: Output folders of evaluations of this model, whose recall the model card tells.
        private: A new repository is visible to its owners alone.
        overwrite: The repository may hold another model, which is replaced.
        message: Of the commit.
    """
    parse_address(address)
    with extra("hub", "mixvpr push: expected huggingface_hub"):
        import huggingface_hub  # noqa: F401 (before minutes of conversion)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with importing():
            import mixvpr_jax.pretrained  # noqa: F401 (slow, and --help does without)
        stage(weights, folder, results)
        files = {name: folder / name for name in (*FILES, CARD)}
        url = write_to_hub(files, address, overwrite=overwrite, private=private, message=message)
    sys.stdout.write(f"written: {url}\nmixvpr_jax.from_pretrained({address!r}) opens it\n")


def stage(weights: str, folder: Path, results: Sequence[str] = ()) -> None:
    """Puts the files that are pushed into an empty folder."""
    from mixvpr_jax.conversion import convert_checkpoint, get_weights, weights_hash
    from mixvpr_jax.model_card import converted_from, model_card, with_recall
    from mixvpr_jax.pretrained import from_pretrained, model_folder, save_pretrained

    card = folder / CARD
    source = as_path(weights) if is_local(weights) or weights.startswith("gs://") else None
    if source is not None and source.is_file():
        try:
            conversion = convert_checkpoint(source)
        except InputError as error:
            if not _OPTIONS.search(str(error)):
                raise
            raise InputError(f"{error}; {_CONVERT}") from None
        told, model = conversion.summary(), conversion.model
        sys.stdout.write(f"{told}\n" + f"note: {_CONVERT}\n" * bool(_OPTIONS.search(told)))
        save_pretrained(model, folder, origin=converted_from(source))
    else:
        with model_folder(weights, (*FILES, CARD)) as found:
            model, _ = from_pretrained(found)  # nothing broken is shared
            for file in (found / name for name in (*FILES, CARD)):
                if file.is_file():
                    shutil.copyfile(file, folder / file.name)
        if not card.is_file():
            card.write_text(model_card(model.config), encoding="utf-8")
    if results:
        known = weights_hash(get_weights(model)), model.config.to_dict()
        found = [_read_results(where, *known, weights) for where in results]
        import yaml  # which the hub's library brings

        try:
            told = with_recall(card.read_text(encoding="utf-8"), found)
            card.write_text(told, encoding="utf-8")
        except (ValueError, yaml.YAMLError) as error:  # a card that its author edited
            raise InputError(
                f"{weights}: README.md: expected a model card in UTF-8 with YAML on top, found: "
                f"{text_of(error)}"
            ) from None


def _read_results(where: str, digest: str, config: dict[str, Any], weights: str) -> dict[str, Any]:
    from mixvpr_jax.evaluation.output import read_output
    from mixvpr_jax.models.config import LACKING

    found = read_output(as_path(where)).results
    if found["recall"] is None:
        raise InputError(f"{where}: expected results with recall, found none (no ground truth)")
    if found.get("weights_sha256") != digest:
        raise InputError(
            f"{where}: expected results of {weights}, found those of other weights "
            f"({found['weights']}); evaluate these with mixvpr eval --weights {weights}"
        )
    if isinstance(theirs := found.get("model"), dict):
        # The filter, the image size, ConvAP's cells …; rounding makes no other model.
        theirs, ours = ({**LACKING, **one, "dtype": None} for one in (theirs, config))
        if other := {name: theirs.get(name) for name in ours if theirs.get(name) != ours[name]}:
            raise InputError(
                f"{where}: expected results of {weights} with { {n: ours[n] for n in other} }, "
                f"found those of the same weights with {other}; evaluate again with "
                f"mixvpr eval --weights {weights}"
            )
    return found

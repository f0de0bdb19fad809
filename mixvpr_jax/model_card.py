"""README.md of a model's folder: what the Hugging Face Hub calls a model card."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import PurePath
from typing import Any

from mixvpr_jax.errors import one_line
from mixvpr_jax.models.config import ModelConfig
from mixvpr_jax.storage import AnyPath
from mixvpr_jax.version import __version__

RECALL = "## Recall"
LIMITS = "## Limits"

# Of the aggregators' papers.
_CITATIONS = {
    "MixVPR": """@inproceedings{alibey2023mixvpr,
  title = {{MixVPR}: Feature Mixing for Visual Place Recognition},
  author = {Ali-bey, Amar and Chaib-draa, Brahim and Gigu{\\`e}re, Philippe},
  booktitle = {WACV},
  pages = {2998--3007},
  year = {2023},
}""",
    "ConvAP": """@article{alibey2022gsv,
  title = {{GSV-Cities}: Toward Appropriate Supervised Visual Place Recognition},
  author = {Ali-bey, Amar and Chaib-draa, Brahim and Gigu{\\`e}re, Philippe},
  journal = {Neurocomputing},
  volume = {513},
  pages = {194--203},
  year = {2022},
}""",
    "CosPlace": """@inproceedings{berton2022cosplace,
  title = {Rethinking Visual Geo-localization for Large-Scale Applications},
  author = {Berton, Gabriele and Masone, Carlo and Caputo, Barbara},
  booktitle = {CVPR},
  pages = {4878--4888},
  year = {2022},
}""",
    "GeM": """@article{radenovic2019gem,
  title = {Fine-tuning {CNN} Image Retrieval with No Human Annotation},
  author = {Radenovi{\\'c}, F. and Tolias, G. and Chum, O.},
  journal = {TPAMI},
  volume = {41},
  number = {7},
  pages = {1655--1668},
  year = {2019},
}""",
    "SALAD": """@inproceedings{izquierdo2024salad,
  title = {Optimal Transport Aggregation for Visual Place Recognition},
  author = {Izquierdo, Sergio and Civera, Javier},
  booktitle = {CVPR},
  year = {2024},
}""",
    "BoQ": """@inproceedings{alibey2024boq,
  title = {{BoQ}: A Place is Worth a Bag of Learnable Queries},
  author = {Ali-bey, Amar and Chaib-draa, Brahim and Gigu{\\`e}re, Philippe},
  booktitle = {CVPR},
  year = {2024},
}""",
}
_COMPARED = ("MixVPR", "ConvAP", "CosPlace", "GeM")  # with the official code's descriptors
_PARITY = """
## Parity

From the same weights, mixvpr-jax and the official PyTorch code compute descriptors that differ by
less than 1e-5 in float32 (docs/parity.md of mixvpr-jax).

"""


def model_card(
    config: ModelConfig, *, origin: str = "", training: Mapping[str, Any] | None = None
) -> str:
    """The card of a model, whose `origin` says, perhaps, where its weights come from.

    Paths in the settings of the run that trained it are shortened to names.
    """
    height, width = config.image_size
    aggregator = config.aggregator_name or "bare backbone"
    gives = f"a descriptor of {config.descriptor_dim} values and unit norm"
    if config.projection is not None:
        gives += f" (projected from {config.aggregator_dim})"
    if config.aggregator is None:
        gives = f"a feature map of {config.feature_channels} channels"
    trained = ""
    if training is not None:
        versions = f"JAX {version('jax')} and Flax {version('flax')}"
        settings = json.dumps(_without_paths(training), indent=2)
        trained = (
            f"\n## Training\n\nTrained by `mixvpr train` (mixvpr-jax {__version__}, {versions}) "
            f"with these settings:\n\n```json\n{settings}\n```\n"
        )
    compared = aggregator in _COMPARED and config.projection is None
    citation = _CITATIONS.get(aggregator)
    cited = f"\n## Citation\n\n```bibtex\n{citation}\n```\n" if citation else ""
    return f"""---
library_name: mixvpr-jax
pipeline_tag: image-feature-extraction
license: unknown
tags: [visual-place-recognition, image-retrieval, jax, flax]
---
# {config.arch}, {aggregator}

A model of mixvpr-jax (`pip install mixvpr-jax`) for visual place recognition: an image gives
{gives}; nearest neighbours show the same place.
{origin}

```python
import mixvpr_jax

model, preprocess = mixvpr_jax.from_pretrained("path/to/this/folder")  # or "hf://…"
descriptors = model(preprocess(images))
```

`config.json` says what the model is, `model.safetensors` holds its weights.

## Preprocessing

`preprocess` turns photos upright, resizes them to {height}x{width} pixels (height x width, by
Pillow's {config.interpolation} filter, whatever their aspect ratio) and normalises them with
ImageNet's mean and standard deviation.
{trained}
{LIMITS}

A near descriptor is no proof of a place: check the neighbours where it matters. Recall is known for
the data on which it was measured, and falls with other cameras, seasons, light and regions.
{_PARITY if compared else ""}
## Licence

The code of mixvpr-jax is Apache-2.0; that says nothing about these weights. They are under the
terms of whoever trained them and of the images used. The official MixVPR repository has no licence.
{cited}"""


def converted_from(checkpoint: AnyPath, address: str | None = None) -> str:
    """The origin of weights that come from another file, found at an address."""
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    return f"Converted from {address or one_line(checkpoint.name)} (sha256 {digest})."


def with_recall(card: str, results: Iterable[Mapping[str, Any]]) -> str:
    """A card with the recall of evaluations (their results.json) in place of an earlier table.

    The table is written for people, and as the hub's `model-index`; needs huggingface_hub.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    lines, entries = [], []
    for found in results:
        recall = {int(k): percent for k, percent in found["recall"].items()}
        where = found["dataset"] + (" (a subset)" if found.get("is_subset") else "")
        cells = " / ".join(f"R@{k} {percent:.1f}" for k, percent in sorted(recall.items()))
        counts = f"{found['num_queries']:,} in {found['num_database']:,}"
        lines.append(f"| {where} | {found['protocol']['positives']} | {counts} | {cells} |")
        entries += [
            EvalResult(
                task_type="image-feature-extraction",
                dataset_type=found["dataset"],
                dataset_name=where,
                metric_type=f"recall@{k}",
                metric_value=round(percent, 2),
            )
            for k, percent in recall.items()
        ]
    head = "| dataset | a match is | queries | recall in percent |\n| --- | --- | --- | --- |"
    table = "\n".join([f"{RECALL}\n\nMeasured by `mixvpr eval`.\n", head, *lines])
    card = re.sub(rf"^{RECALL}\n.*?(?=^## |\Z)", "", card, flags=re.DOTALL | re.MULTILINE)
    before, limits, after = card.partition(f"{LIMITS}\n")
    written = ModelCard(f"{before.rstrip()}\n\n{table}\n\n{limits}{after}")
    metadata = {k: v for k, v in written.data.to_dict().items() if k != "model-index"}
    title = written.text.strip().partition("\n")[0].removeprefix("# ")
    written.data = ModelCardData(**metadata, model_name=title, eval_results=entries)
    return str(written)


def _without_paths(value: Any) -> Any:
    """Settings without the folders of whoever trained, which are nobody else's business."""
    if isinstance(value, Mapping):
        return {name: _without_paths(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(inner) for inner in value]
    return PurePath(value).name if isinstance(value, str) and "/" in value else value

"""An evaluation as VPR-methods-evaluation goes it: evaluate_torch.py WEIGHTS ARGUMENTS.json.

PyTorch's DataLoader and its worker processes, the model in PyTorch, queries one at a time, FAISS's
IndexFlatL2, a loop over queries. Prints its recalls as JSON. A process of its own,
as that evaluation is: workers are forked, which threads of other libraries would not survive.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import faiss
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from reference_torch import VPRModel

KS = (1, 5, 10, 20)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Photos(Dataset):
    """Image files as the official evaluation transform gives them."""

    def __init__(self, paths: list[str], size: list[int]) -> None:
        self.paths, self.size = paths, size
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as image:
            resized = image.convert("RGB").resize(self.size[::-1], Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1)
        return (pixels.float() / 255 - self.mean) / self.std


def main(weights: str, arguments: str) -> None:
    """Evaluates what the arguments say, and prints what came of it."""
    options = json.loads(Path(arguments).read_text())
    model = VPRModel(*options["model"]).eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device)

    def describe(paths: list[str], batch_size: int) -> np.ndarray:
        photos = Photos(paths, options["image_size"])
        loader = DataLoader(photos, batch_size, num_workers=options["num_workers"])
        with torch.inference_mode():
            return np.concatenate([model(batch.to(device)).cpu().numpy() for batch in loader])

    database = describe(options["database"], options["batch_size"])
    queries = describe(options["queries"], 1)
    index = faiss.IndexFlatL2(database.shape[1])
    index.add(database)
    _, predictions = index.search(queries, max(KS))
    found = np.zeros(len(KS))
    for predicted, positives in zip(predictions, options["positives"], strict=True):
        for place, k in enumerate(KS):
            if np.isin(predicted[:k], positives).any():
                found[place:] += 1
                break
    print(json.dumps(dict(zip(KS, (100 * found / len(queries)).tolist(), strict=True))))


if __name__ == "__main__":
    main(*sys.argv[1:])

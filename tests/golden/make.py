"""Makes the golden values anew, from a checkout of the official implementation.

    python tests/golden/make.py OFFICIAL --output FOLDER [--openvprlab CHECKOUT] [--photos FOLDER]

OFFICIAL is a checkout of amaralibey/MixVPR, `--openvprlab` one of amaralibey/OpenVPRLab, both
unchanged; README.md beside this script says what they need. Models, losses, miners, recalls and
training steps are theirs, imported and called; inputs and weights follow `../recipe.py`. What is
made is compared with the files beside this script: per file, the largest difference by precision.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import types
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode, Resize
from torchvision.transforms.autoaugment import _apply_op

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from official import (  # noqa: E402
    CASES,
    import_official,
    mixvpr,
    openvprlab_keys,
    recipe_model,
    shapes_of,
)
from recipe import recipe_images, trajectory_batch  # noqa: E402

PHOTO_CASE = "resnet50_mixvpr_512"
LOSSES = (
    *("SupConLoss", "CircleLoss", "MultiSimilarityLoss", "ContrastiveLoss", "Lifted"),
    *("FastAPLoss", "NTXentLoss", "TripletMarginLoss", "CentroidTripletLoss"),
)
MINERS = ("None", "TripletMarginMiner", "MultiSimilarityMiner", "PairMarginMiner")
# trajectory: (optimizer, learning rate, warm-up steps, milestones in epochs of 4 steps)
TRAJECTORIES = {
    "sgd": ("sgd", 0.05, 5, [2, 3]),
    "adamw": ("adamw", 2e-4, 5, [2, 3]),
    "warmup": ("sgd", 0.05, 6, [1, 2]),
}
TRAJECTORY_MODEL = ("resnet18", [4], mixvpr(256, 4, 16, 2, 1, 4))
STORED_WHOLE = (
    *("backbone.model.conv1.weight", "backbone.model.bn1.running_mean"),
    *("backbone.model.bn1.running_var", "backbone.model.layer1.0.bn1.running_var"),
    *("backbone.model.layer2.1.bn2.weight", "backbone.model.layer3.1.bn2.running_mean"),
    *("backbone.model.layer3.1.bn2.weight", "backbone.model.layer3.0.downsample.1.running_var"),
    *("backbone.model.layer3.0.downsample.1.num_batches_tracked", "aggregator.mix.0.mix.0.weight"),
    *("aggregator.mix.1.mix.3.weight", "aggregator.row_proj.weight"),
    "aggregator.channel_proj.bias",
)


def descriptors(official, case: str) -> dict:
    """Descriptors and parts of the feature map of random images."""
    arch, crop, aggregator, size, count = CASES[case]
    seed = zlib.crc32(case.encode())
    images = torch.from_numpy(recipe_images(seed, (count, 3, size, size)))
    model = recipe_model(official, arch, crop, aggregator)
    rounded = recipe_model(official, arch, crop, aggregator, "float32")
    features = model.backbone(images)
    told = {"arch": arch, "layers_to_crop": crop, "aggregator": aggregator[0]}
    told |= {"aggregator_config": aggregator[1], "image_size": size, "batch": count}
    return {
        "descriptors": model(images).numpy(),
        "descriptors_float32": rounded(images.float()).numpy(),
        "feature_map_mean": features.mean((2, 3)).numpy().astype("float32"),
        "feature_map_corner": features[:, :8, :3, :3].numpy(),
        "config": np.array(json.dumps(told | {"image_seed": seed})),
    }


def checkpoint_keys(official) -> dict:
    """Case → names and shapes of the official state_dict."""
    models = {case: recipe_model(official, *CASES[case][:3]) for case in CASES}
    return {case: shapes_of(model) for case, model in models.items()}


def losses(official, given: dict) -> dict:
    """Values and gradients of each loss with each miner, on `given` inputs and labels."""
    found = dict(given)
    labels = torch.from_numpy(given["labels"])
    for name in LOSSES:
        for miner in MINERS if name != "CentroidTripletLoss" else ("None",):
            for bits, dtype in (("f64", torch.float64), ("f32", torch.float32)):
                inputs = torch.from_numpy(given["inputs"]).to(dtype).requires_grad_()
                with torch.enable_grad():
                    mined, value, accuracy = one_loss(official, name, miner, inputs, labels)
                    value.backward()
                key = f"{name}/{miner}/{bits}"
                found[f"{key}/loss"] = value.detach().numpy()
                found[f"{key}/grad"] = inputs.grad.numpy()
                found[f"{key}/batch_accuracy"] = np.array(accuracy, "float64")
                if bits == "f64" and mined:
                    found |= {f"{miner}/{part}": mask for part, mask in masks(mined, 24).items()}
    return found


def one_loss(official, name, miner, inputs, labels):
    """What the miner gives, the loss and the batch accuracy, by the official loss function."""
    mine = official.utils.get_miner(miner)
    module = types.SimpleNamespace(
        miner=mine, loss_fn=official.utils.get_loss(name), batch_acc=[], log=lambda *_, **__: None
    )
    unit = torch.nn.functional.normalize(inputs, dim=1)
    value = official.main.VPRModel.loss_function(module, unit, labels)
    return mine and mine(unit, labels), value, module.batch_acc[0]


def masks(mined: tuple, count: int) -> dict[str, np.ndarray]:
    """Indices of mined pairs or triplets as masks."""
    if len(mined) == 3:
        parts = {"triplet_mask": mined}
    else:
        parts = {"positive_mask": mined[:2], "negative_mask": mined[2:]}
    found = {}
    for name, indices in parts.items():
        found[name] = np.zeros((count,) * len(indices), bool)
        found[name][tuple(index.numpy() for index in indices)] = True
    return found


def trajectory(official, name: str) -> dict:
    """Twelve training steps."""
    found = train(official, name, "float64")
    return {**found, "loss_float32": train(official, name, "float32")["loss"]}


@torch.enable_grad()
def train(official, name: str, dtype: str) -> dict:
    """The official training step, optimizer and schedule; only the loop around them is ours."""
    optimizer, rate, warmup, milestones = TRAJECTORIES[name]
    options = {"lr": rate, "optimizer": optimizer, "milestones": milestones, "lr_mult": 0.3}
    options |= {"warmpup_steps": warmup, "weight_decay": 1e-3, "momentum": 0.9}
    model = recipe_model(official, *TRAJECTORY_MODEL, dtype, **options).train()
    model.trainer = types.SimpleNamespace(global_step=0)
    [optimizer], [scheduler] = model.configure_optimizers()
    found: dict = {"loss": [], "batch_accuracy": [], "learning_rate": []}

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model.training_step(batch, step)["loss"]
        loss.backward()
        found["loss"].append(loss.item())
        return loss

    for step in range(12):
        images, labels = trajectory_batch(step)
        images = torch.from_numpy(images).to(getattr(torch, dtype))
        batch = images.reshape(4, 4, 3, 64, 64), torch.from_numpy(labels).reshape(4, 4)
        if step == 0:
            found["first_descriptors"] = copy.deepcopy(model)(images).detach().numpy()
        model.optimizer_step(step // 4, step % 4, optimizer, 0, closure, False, False, False)
        found["batch_accuracy"].append(model.batch_acc[-1])
        found["learning_rate"].append(optimizer.param_groups[0]["lr"])
        model.trainer.global_step += 1
        if step % 4 == 3:  # Lightning steps the schedule after each epoch
            scheduler.step()
    found = {key: np.array(value) for key, value in found.items()}
    return found | final_state(model.eval(), getattr(torch, dtype))


def final_state(model, dtype) -> dict:
    """Descriptors of a trained model, norm and sum of each entry, and some entries whole."""
    probe = torch.from_numpy(recipe_images(77, (3, 3, 64, 64))).to(dtype)
    found = {"probe_descriptors": model(probe).detach().numpy()}
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for name, array in state.items():
        found[f"norm/{name}"] = np.array([np.linalg.norm(array), array.sum()], "float64")
    return found | {f"value/{name}": state[name] for name in STORED_WHOLE}


def preprocessing(official) -> dict:
    """The official transforms of street.jpg."""
    street = Image.open(HERE / "street.jpg")
    data = official.loader.GSVCitiesDataModule(image_size=(320, 320))
    resized = data.valid_transform.transforms[0](street)
    augment = data.train_transform.transforms[1]
    space = augment._augmentation_space(augment.num_magnitude_bins, (320, 320))
    pixels, found, operations = np.asarray(resized), {}, {}
    for name, (magnitudes, signed) in space.items():
        magnitude = float(magnitudes[augment.magnitude]) if magnitudes.ndim else 0.0
        operations[name] = {"magnitude": magnitude, "signed": signed}
        for sign in ("+", "-") if signed else ("+",):
            amount = magnitude if sign == "+" else -magnitude
            after = _apply_op(resized, name, amount, augment.interpolation, augment.fill)
            found[f"randaugment/{name}/{sign}"] = np.asarray(after)[::4, ::4]
    told = {"source": "street.jpg", "pillow": PIL.__version__}
    told |= {"torchvision": torchvision.__version__, "num_ops": augment.num_ops}
    told |= {"magnitude": augment.magnitude, "num_magnitude_bins": augment.num_magnitude_bins}
    cubic = Resize((320, 320), InterpolationMode.BICUBIC)(street)
    return {
        "decoded_crop": np.asarray(street)[100:164, 200:264],
        "resize_bilinear": pixels[::2, ::2],
        "resize_bilinear_sum": pixels.sum((0, 1), dtype=np.int64),
        "resize_bicubic": np.asarray(cubic)[::2, ::2],
        "normalized_crop": data.valid_transform(street).numpy()[:, 100:132, 100:132],
        **found,
        "meta": np.array(json.dumps(told | {"ops": operations})),
    }


def retrieval(official, given: dict) -> dict:
    """Neighbours and recall of `given` descriptors and positives."""
    predictions, squared = nearest(given["database"], given["queries"], 20)
    positives = np.split(given["positives_flat"], given["positives_offsets"][1:-1])
    recall = official.utils.get_validation_recalls(
        given["database"], given["queries"], given["k_values"].tolist(), positives, False
    )
    outputs = {"predictions": predictions, "squared_distances": squared}
    return {**given, **outputs, "recall": np.array(list(recall.values()))}


def nearest(database: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Each query's k nearest by FAISS's flat index, as the official validation finds them."""
    import faiss

    index = faiss.IndexFlatL2(database.shape[1])
    index.add(database)
    squared, predictions = index.search(queries, k)
    return predictions, squared


def photos(official, folder: Path) -> dict:
    """Float32 descriptors and neighbours of photos in `database/` and `queries/`.

    The official evaluation does not turn photos that EXIF says lie on their side; here they are
    turned before it sees them.
    """
    model = recipe_model(official, *CASES[PHOTO_CASE][:3], "float32")
    transform = official.loader.GSVCitiesDataModule(image_size=(320, 320)).valid_transform
    paths = sorted(path for path in folder.glob("*/*") if path.suffix in (".jpg", ".png"))
    upright = [ImageOps.exif_transpose(Image.open(path)) for path in paths]
    images = torch.stack([transform(image) for image in upright])
    found = torch.cat([model(batch) for batch in images.split(1)]).numpy()
    count = sum(path.parent.name == "database" for path in paths)
    predictions, squared = nearest(found[:count], found[count:], 5)
    return {
        "files": np.array([path.relative_to(folder).as_posix() for path in paths]),
        "descriptors": found,
        "predictions": predictions,
        "squared_distances": squared,
        "num_database": np.array(count),
    }


def makers(official, options: argparse.Namespace) -> dict[str, Callable[[], dict]]:
    """File → what makes it. Losses and search keep the inputs of the files beside this script."""
    kept = {"losses": ("inputs", "labels"), "retrieval": ("database", "queries", "k_values")}
    kept["retrieval"] += ("positives_flat", "positives_offsets")
    given = {}
    for name, parts in kept.items():
        file = np.load(HERE / f"{name}.npz")
        given[name] = {part: file[part] for part in parts}
    found: dict[str, Callable[[], dict]] = {
        "checkpoint_keys.json": lambda: checkpoint_keys(official),
        "losses.npz": lambda: losses(official, given["losses"]),
        "preprocess.npz": lambda: preprocessing(official),
        "retrieval.npz": lambda: retrieval(official, given["retrieval"]),
        f"photos_{PHOTO_CASE}.npz": lambda: photos(official, HERE / "photos"),
    }
    for name in TRAJECTORIES:
        found[f"trajectory_{name}.npz"] = lambda name=name: trajectory(official, name)
    for case in CASES:
        found[f"descriptors_{case}.npz"] = lambda case=case: descriptors(official, case)
    if options.photos:
        found[f"real_images_{PHOTO_CASE}.npz"] = lambda: photos(official, options.photos)
    if options.openvprlab:
        found["openvprlab_keys.json"] = lambda: openvprlab_keys(options.openvprlab)
    return dict(sorted(found.items()))


def difference(path: Path, made: dict) -> str:
    """How what was made differs from the file beside this script."""
    if not path.exists():
        return "new"
    if path.suffix == ".json":
        return "equal" if list(json.loads(path.read_text()).items()) == [*made.items()] else "OTHER"
    before, largest = np.load(path), {}
    if set(before) != set(made):
        return f"OTHER entries: {sorted(set(before) ^ set(made))}"
    for name, array in made.items():
        old = before[name]
        if (old.dtype.kind, old.shape) != (array.dtype.kind, array.shape):
            return f"OTHER: {name} is {array.dtype} {array.shape}, was {old.dtype} {old.shape}"
        if array.dtype.kind == "f":
            kind = "float32" if "f32" in name or "float32" in name else str(array.dtype)
            gap = np.abs(old - array).max(initial=0)
        else:
            kind, gap = "others", np.count_nonzero(old != array)
        largest[kind] = max(largest.get(kind, 0), gap)
    return ", ".join(f"{kind} {gap:.1e}" for kind, gap in sorted(largest.items()))


def main() -> None:
    """Writes the files that are asked for and prints how they differ from those here."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("official", type=Path, help="checkout of amaralibey/MixVPR")
    parser.add_argument("--output", type=Path, required=True, help="folder for what is made")
    parser.add_argument("--openvprlab", type=Path, help="checkout of amaralibey/OpenVPRLab")
    parser.add_argument("--photos", type=Path, help="photos that are not here: database/, queries/")
    parser.add_argument("--only", nargs="*", help="files to make (default: all)")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_grad_enabled(False)
    warnings.simplefilter("ignore")
    for name, make in makers(import_official(options.official), options).items():
        if options.only and name not in options.only:
            continue
        made, path = make(), options.output / name
        told = difference(HERE / name, made)
        if path.suffix == ".json":
            path.write_text(json.dumps(made))
        else:
            np.savez_compressed(path, **made)
        print(f"{name}: {told}", flush=True)


if __name__ == "__main__":
    main()

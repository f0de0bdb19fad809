"""The official implementation, imported from an unchanged checkout, and its models with the
recipe's weights."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
import types
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import numpy as np
import torch
import torchvision

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from recipe import recipe_state


def mixvpr(channels: int, size: int, out_channels: int, depth: int, ratio: int, rows: int) -> tuple:
    """The official aggregator MixVPR with its options."""
    options = {"in_channels": channels, "in_h": size, "in_w": size, "out_channels": out_channels}
    return "MixVPR", {**options, "mix_depth": depth, "mlp_ratio": ratio, "out_rows": rows}


CONVAP = ("ConvAP", {"in_channels": 512, "out_channels": 32, "s1": 2, "s2": 2})
COSPLACE = ("CosPlace", {"in_dim": 256, "out_dim": 64})
GEM = ("GeM", {"p": 3})
# case: (arch, layers_to_crop, aggregator, image size, images)
CASES = {
    "resnet50_mixvpr_4096": ("resnet50", [4], mixvpr(1024, 20, 1024, 4, 1, 4), 320, 2),
    "resnet50_mixvpr_512": ("resnet50", [4], mixvpr(1024, 20, 256, 4, 1, 2), 320, 2),
    "resnet50_mixvpr_128": ("resnet50", [4], mixvpr(1024, 20, 64, 4, 1, 2), 320, 2),
    "resnet18_mixvpr_64": ("resnet18", [4], mixvpr(256, 4, 16, 2, 2, 4), 64, 3),
    "resnet18_full_convap": ("resnet18", [], CONVAP, 96, 3),
    "resnet34_cosplace": ("resnet34", [4], COSPLACE, 96, 3),
    "resnet18_gem": ("resnet18", [3, 4], GEM, 80, 3),
    "resnext50_32x4d_mixvpr": ("resnext50_32x4d", [4], mixvpr(1024, 6, 32, 1, 1, 2), 96, 2),
    "resnet152_full_gem": ("resnet152", [], GEM, 64, 2),
    "resnet101_mixvpr": ("resnet101", [4], mixvpr(1024, 4, 32, 1, 1, 2), 64, 2),
}
# OpenVPRLab: case: (arch, unfrozen blocks, cropped, channels, side of the feature map)
OPENVPRLAB = {
    "resnet50_unfrozen1_cropTrue": ("resnet50", 1, True, 1024, 20),
    "resnet50_unfrozen2_cropTrue": ("resnet50", 2, True, 1024, 20),
    "resnet18_unfrozen1_cropTrue": ("resnet18", 1, True, 256, 20),
    "resnet50_unfrozen1_cropFalse": ("resnet50", 1, False, 2048, 10),
}


class LightningModule(torch.nn.Module):
    """What the official model asks of PyTorch Lightning, of which no version is needed then."""

    def save_hyperparameters(self, *_: object) -> None:
        """Nobody reads them here."""

    def log(self, *_: object, **__: object) -> None:
        """Nobody reads it here."""


def import_official(checkout: Path) -> types.SimpleNamespace:
    """The official modules, with no line of them changed.

    They ask for Lightning (`LightningModule` stands in), for released ImageNet weights (the
    recipe's take their place) and for data sets in folders beside the current one (made empty).
    """
    lightning = types.ModuleType("pytorch_lightning")
    callbacks = types.ModuleType("pytorch_lightning.callbacks")
    vars(callbacks).update(Callback=object, ModelCheckpoint=object)
    vars(lightning).update(LightningModule=LightningModule, LightningDataModule=LightningModule)
    sys.modules |= {lightning.__name__: lightning, callbacks.__name__: callbacks}
    for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d"):
        setattr(torchvision.models, name, without_weights(getattr(torchvision.models, name)))
    if not hasattr(np, "in1d"):  # the official recall is of NumPy 1
        np.in1d = np.isin
    sys.path.insert(0, str(checkout.resolve()))
    with tempfile.TemporaryDirectory() as folder:
        for name in ("here", "datasets/Pittsburgh", "datasets/gsv_cities", "datasets/msls_val"):
            Path(folder, name).mkdir(parents=True)
        before = Path.cwd()
        os.chdir(Path(folder, "here"))
        try:
            modules = {
                "main": importlib.import_module("main"),
                "utils": importlib.import_module("utils"),
                "loader": importlib.import_module("dataloaders.GSVCitiesDataloader"),
            }
        finally:
            os.chdir(before)
    helper = modules["main"].helper
    find = helper.get_backbone  # finds no ResNeXt, which the ResNet class knows
    helper.get_backbone = lambda *given: find(*given) or helper.backbones.ResNet(*given)
    return types.SimpleNamespace(**modules)


def without_weights(build: Callable) -> Callable:
    """A constructor of torchvision that downloads nothing, whatever weights are asked for."""

    @wraps(build)
    def built(weights: object = None) -> torch.nn.Module:
        return build(weights=None)

    return built


def recipe_model(official, arch, crop, aggregator, dtype="float64", **options):
    """The official model, frozen as options say, with the recipe's weights; evaluation mode."""
    kind, settings = aggregator
    model = official.main.VPRModel(
        backbone_arch=arch,
        layers_to_crop=crop,
        agg_arch=kind,
        agg_config=dict(settings),
        **{"layers_to_freeze": 2, **options},
    )
    shapes = {name: tuple(shape) for name, shape in shapes_of(model).items()}
    state = {name: torch.tensor(array) for name, array in recipe_state(shapes, dtype).items()}
    model.to(getattr(torch, dtype)).load_state_dict(state)
    return model.eval()


def shapes_of(module: torch.nn.Module) -> dict[str, list[int]]:
    """Names and shapes of a state_dict, in order."""
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def openvprlab_keys(checkout: Path) -> dict:
    """Case → names and shapes of OpenVPRLab's state_dict; its two files are loaded by path."""
    parts = {}
    for name, file in (("ResNet", "backbones/resnet.py"), ("MixVPR", "aggregators/mixvpr.py")):
        spec = importlib.util.spec_from_file_location(name, checkout / "src" / "models" / file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        parts[name] = getattr(module, name)
    found = {}
    for case, (arch, unfrozen, crop, channels, side) in OPENVPRLAB.items():
        whole = torch.nn.Module()
        whole.backbone = parts["ResNet"](arch, True, crop, unfrozen)
        whole.aggregator = parts["MixVPR"](
            in_channels=channels, in_h=side, in_w=side, out_channels=512, mix_depth=4, mlp_ratio=1
        )
        found[case] = shapes_of(whole)
    return found

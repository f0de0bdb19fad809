"""Checkpoints with hyper-parameters, as Lightning and OpenVPRLab write them."""

from functools import cache

import torch_or_skip as torch

from mixvpr_jax import ConvAPConfig, GeMConfig, MixVPRConfig, ModelConfig
from mixvpr_jax.conversion import to_state_dict
from mixvpr_jax.conversion.infer import read_hyper_parameters
from mixvpr_jax.models.vpr import create_model

CONVAP, GEM, MIXVPR = ConvAPConfig(8, 2, 2), GeMConfig(), MixVPRConfig(8, 1, 1.0, 2)


@cache
def weights(aggregator, image_size=(320, 320)):
    model = create_model(ModelConfig("resnet18", (4,), aggregator, image_size), seed=1)
    return {name: torch.tensor(array) for name, array in to_state_dict(model).items()}


def openvprlab(state, unfrozen=1):
    """As OpenVPRLab names them; written apart from the package."""
    stages = 1 + max(int(n[20]) for n in state if n.startswith("backbone.model.layer"))
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("backbone.model."):
            module, rest = name.removeprefix("backbone.model.").split(".", 1)
            block = 0 if module in ("conv1", "bn1") else int(module[5:])
            inner = {"conv1": "0.", "bn1": "1."}.get(module, "")
            if block < stages - unfrozen:
                name = f"backbone.frozen_layers.{block}.{inner}{rest}"
            else:
                name = f"backbone.unfrozen_layers.{block - stages + unfrozen}.{inner}{rest}"
        renamed[name] = tensor
    return renamed


def lightning(state, image_size=None, **agg_config):
    hyper = {"backbone_arch": "resnet18", "layers_to_crop": [4], "agg_config": agg_config}
    of_data = {"batch_size": 120} | ({} if image_size is None else {"image_size": image_size})
    return {
        "state_dict": state,
        "hyper_parameters": hyper,
        "datamodule_hyper_parameters": of_data,
    }


def lab(state, train=None, val=None, cls="MixVPR", **params):
    data = {"train_image_size": train, "val_image_size": val}
    hyper = {
        "datamodule": {name: size for name, size in data.items() if size is not None},
        "backbone": {"class": "ResNet", "params": {"backbone_name": "resnet18"}},
        "aggregator": {"module": "src.models.aggregators", "class": cls, "params": params},
    }
    return {"state_dict": openvprlab(state), "hyper_parameters": hyper}


def lightnings(own, of_data):
    """What is read of both its hyper-parameters."""
    return read_hyper_parameters({"hyper_parameters": own, "datamodule_hyper_parameters": of_data})

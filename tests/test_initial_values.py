"""Random weights follow the laws of the authors' code, drawn here by PyTorch's own initialisers."""

import math
import re
from functools import partial

import numpy as np
import pytest
import torch_or_skip as torch

from mixvpr_jax import ModelConfig, create_model
from mixvpr_jax.conversion import get_weights
from mixvpr_jax.conversion.key_table import to_torch
from mixvpr_jax.models import backbones
from mixvpr_jax.models.config import (
    BoQConfig,
    ConvAPConfig,
    CosPlaceConfig,
    GeMConfig,
    MixVPRConfig,
    SALADConfig,
)

init = torch.nn.init
# name: its family, a shape with a block of each kind, images, an aggregator
MODELS = {
    "resnet": (backbones.RESNETS, ((1, 1, 1, 1), False), 56, MixVPRConfig(64)),
    "resnext": (backbones.RESNETS, ((1, 1, 1, 1), True, 32, 4), 64, CosPlaceConfig(64)),
    "efficientnet": (backbones.EFFICIENTNETS, (0.5, 0.3), 64, ConvAPConfig(64)),
    "dinov2": (backbones.VITS, (1, 192, 3), 126, SALADConfig()),
    "dinov2_gated": (backbones.VITS, (1, 128, 2, True, 4), 56, BoQConfig(128, num_layers=1)),
    "swin": (
        backbones.SWINS,
        (64, 32, (1, 1, 1, 1), (1, 2, 2, 4), 4, (3, 3, 3, 2)),
        64,
        GeMConfig(),
    ),
}

ones, zeros = init.ones_, init.zeros_
small = partial(init.trunc_normal_, std=0.02)
token = partial(init.normal_, std=1e-6)
he = partial(init.kaiming_normal_, mode="fan_out", nonlinearity="relu")
torchs_own = partial(init.kaiming_uniform_, a=math.sqrt(5))  # of Linear and Conv2d


def within(array, weight):
    """A bias of Linear and Conv2d."""
    bound = math.prod(weight.shape[1:]) ** -0.5
    return init.uniform_(array, -bound, bound)


def he_of_a_group(array):
    """timm's, whose fan_out is divided by the groups, here one a channel."""
    return init.normal_(array, std=math.sqrt(2 / math.prod(array.shape[2:])))


# The first pattern that a name matches tells the law: torchvision's ResNet, timm's EfficientNet and
# Swin V2, facebookresearch/dinov2, amaralibey's aggregators, serizba's SALAD, torch.nn.
LAWS = {
    r"num_batches_tracked|classifier\.": zeros,
    r"running_mean|mask_token|in_proj_bias|out_proj\.bias|[qv]_bias": zeros,
    r"running_var|gamma|dust_bin": ones,
    r"cls_token|register_tokens": token,
    r"pos_embed": small,
    r"logit_scale": partial(init.constant_, val=math.log(10)),
    r"queries": init.normal_,
    r"aggregator(\.gem)?\.p$": partial(init.constant_, val=3.0),
    r"in_proj_weight": init.xavier_uniform_,
    r"layers\.\d+\.blocks\.\d+\.norm\d\.weight": zeros,
    r"(norm\w*|bn\d|downsample\.1|mix\.0)\.weight": ones,
    r"(norm\w*|bn\d|downsample\.1|mix\.0)\.bias": zeros,
    r"conv_dw\.weight": he_of_a_group,
    r"backbone.*(conv\w*|downsample\.0)\.weight": he,
    r"(qkv|attn\.proj|mlp\.\w+|cpb_mlp\.\d|reduction|mix\.[13])\.weight": small,
    r"(qkv|attn\.proj|mlp\.\w+|cpb_mlp\.\d|mix\.[13]|conv_\w+)\.bias": zeros,
    r"\.weight": torchs_own,
    r"\.bias": within,
}


def law_of(name):
    """A pattern of `LAWS`."""
    return next(pattern for pattern in LAWS if re.search(pattern, name))


def apart(ours, theirs):
    """Kolmogorov's and Smirnov's statistic: chance exceeds 3 in one of 30 million pairs."""
    values, count = np.concatenate([ours, theirs]), len(ours)
    below = [np.searchsorted(np.sort(each), values, side="right") for each in (ours, theirs)]
    return np.abs(below[0] - below[1]).max() / math.sqrt(2 * count)


@pytest.mark.parametrize("arch", MODELS)
def test_each_kind_of_parameter(arch, monkeypatch):
    family, given, side, aggregator = MODELS[arch]
    shape = type(next(iter(family.values())))(*given)
    for mapping in (family, backbones.BACKBONES):
        monkeypatch.setitem(mapping, arch, shape)
    cropped = (3, 4) if family is backbones.RESNETS else ()
    torch.manual_seed(5)
    model = create_model(ModelConfig(arch, cropped, aggregator, (side, side)), seed=5)
    state = to_torch(get_weights(model))
    drawn: dict[str, tuple[list, list]] = {}
    for name, array in state.items():
        law, theirs = law_of(name), torch.empty(array.shape)
        beside = (state[name.removesuffix("bias") + "weight"],) if law == r"\.bias" else ()
        LAWS[law](theirs, *beside)
        if (theirs == theirs.flatten()[0]).all():
            np.testing.assert_allclose(array, theirs, rtol=1e-6, err_msg=name)
        else:  # numbers of blocks apart, all of a kind count together
            samples = drawn.setdefault(re.sub(r"\d+", "0", name), ([], []))
            for sample, each in zip(samples, (array, theirs), strict=True):
                sample.append(np.ravel(each))
    for name, samples in drawn.items():
        ours, theirs = map(np.concatenate, samples)
        chance = 5 * theirs.std() / math.sqrt(len(ours))
        assert abs(ours.std() - theirs.std()) < chance, name
        assert abs(ours.mean()) < chance, name
        assert apart(ours, theirs) < 3, name

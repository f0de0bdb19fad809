"""Weights by the names of CosPlace's and EigenPlaces' authors."""

import pytest
import torch_or_skip as torch
from checkpoints import same_weights, saved

from mixvpr_jax import CosPlaceConfig, ModelConfig
from mixvpr_jax.conversion import convert_checkpoint, to_state_dict
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.vpr import create_model

CHILDREN = ["conv1", "bn1", "", "", "layer1", "layer2", "layer3", "layer4"]


def cosplace(state, head=("aggregation.1.p", "aggregation.3.")):
    """As the authors of CosPlace name them: a backbone's children in a row."""
    content = {}
    for name, tensor in state.items():
        if name.startswith("backbone.model."):
            module, rest = name.removeprefix("backbone.model.").split(".", 1)
            name = f"backbone.{CHILDREN.index(module)}.{rest}"
        name = name.replace("aggregator.gem.p", head[0])
        content[name.replace("aggregator.fc.", head[1])] = tensor
    return content


def weights(config):
    model = create_model(config, seed=2)
    return {name: torch.tensor(array) for name, array in to_state_dict(model).items()}


def test_the_authors_cosplace_and_eigenplaces(path):
    config = ModelConfig("resnet18", (), CosPlaceConfig(64), (512, 512))
    state = weights(config)
    state["aggregator.gem.p"] += 0.25
    bare, whole = cosplace(state), {"epoch_num": 3, "model_state_dict": cosplace(state)}
    for content in (bare, whole):
        conversion = convert_checkpoint(saved(path, content))
        assert conversion.model.config == config
        assert same_weights(conversion.model, state)
        assert "CosPlace, EigenPlaces" in conversion.summary()
        assert "images taken as 512x512, as is usual" in conversion.summary()
    given = convert_checkpoint(path, image_size=(480, 640)).model.config
    assert given.image_size == (480, 640)


def test_the_same_head_in_the_benchmark_of_its_authors(path):
    state = weights(ModelConfig("resnet18", (4,), CosPlaceConfig(64)))
    content = cosplace(state, ("aggregation.0.1.p", "aggregation.1."))
    conversion = convert_checkpoint(saved(path, {"model_state_dict": content}))
    assert same_weights(conversion.model, state)
    assert conversion.model.config.layers_to_crop == (4,)
    assert conversion.model.config.image_size == (480, 640)  # its default, not CosPlace's


def test_other_heads_and_backbones_behind_those_names(path):
    state = cosplace(weights(ModelConfig("resnet18", (4,), CosPlaceConfig(64))))
    pooled = {name: t for name, t in state.items() if not name.startswith("aggregation.3")}
    with pytest.raises(InputError, match="expected MixVPR .* found gem"):
        convert_checkpoint(saved(path, pooled))
    other = {n.replace("aggregation.1.p", "aggregation.conv.weight"): t for n, t in state.items()}
    with pytest.raises(InputError, match="left unfilled: aggregator.gem.p; entries left over"):
        convert_checkpoint(saved(path, other))
    twice = state | {"aggregation.1.weight": state["aggregation.3.weight"]}
    with pytest.raises(InputError, match="found both aggregation.3.weight and aggregation.1.weig"):
        convert_checkpoint(saved(path, twice))
    vgg = {f"backbone.{i}.weight": torch.ones(64, 3, 3, 3) for i in (0, 2, 5)}
    with pytest.raises(InputError, match="backbone: expected stages"):
        convert_checkpoint(saved(path, vgg))

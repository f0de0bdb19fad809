"""What a checkpoint's hyper-parameters tell of its model, and what is said where none do."""

import re
from argparse import Namespace

import numpy as np
import pytest
import torch_or_skip as torch
from checkpoints import same_weights, saved
from hyper_parameters import CONVAP, GEM, MIXVPR, lab, lightning, lightnings, openvprlab, weights

from mixvpr_jax import ConvAPConfig, CosPlaceConfig, ModelConfig
from mixvpr_jax.conversion import convert_checkpoint, to_state_dict, write_checkpoint
from mixvpr_jax.conversion.infer import read_hyper_parameters
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.vpr import create_model


@pytest.mark.parametrize("size", [(480, 640), [480, 640], torch.Size([224, 224]), 322])
@pytest.mark.parametrize("aggregator", [CONVAP, GEM, CosPlaceConfig(8)], ids=lambda a: a.name)
def test_lightnings_image_size(path, aggregator, size):
    content = lightning(weights(aggregator), size, s1=2, s2=2)
    conversion = convert_checkpoint(saved(path, content))
    expected = (size, size) if isinstance(size, int) else tuple(size)
    assert conversion.model.config.image_size == expected
    assert ("one number as image_size read as 322x322" in conversion.summary()) == (size == 322)


@pytest.mark.parametrize("argument", ["args", "config", "hparams"])
@pytest.mark.parametrize("name", ["image_size", "img_size"])
@pytest.mark.parametrize("beside", [{}, {"lr": 1e-3}], ids=["alone", "beside"])
def test_settings_within_one_argument(path, argument, name, beside):
    """Of a module that is made by `__init__(self, config)`."""
    inner = Namespace(**{name: (224, 288), "agg_config": {"s1": 1, "s2": 3}})
    state = weights(ConvAPConfig(8, 1, 3))
    content = {"state_dict": state, "hyper_parameters": {argument: inner, **beside}}
    config = convert_checkpoint(saved(path, content)).model.config
    assert config.image_size == (224, 288) and config.aggregator == ConvAPConfig(8, 1, 3)


@pytest.mark.parametrize("place", ["args", "config", "hparams", "opt", ""])
def test_settings_beside_the_weights(path, place):
    """As programs without Lightning save them, and Lightning before 0.9."""
    told = {"img_size": (224, 288), "agg_config": {"s1": 1, "s2": 3}, "interpolation": "bicubic"}
    content = {"model_state_dict": weights(ConvAPConfig(8, 1, 3)), "epoch": 3}
    content |= {place: Namespace(**told)} if place else told
    config = convert_checkpoint(saved(path, content)).model.config
    assert config.image_size == (224, 288) and config.interpolation == "bicubic"
    assert config.aggregator == ConvAPConfig(8, 1, 3)
    inner = vars(content[place]) if place else content
    with pytest.raises(InputError, match=r"mean_std: expected .* found \[0.5, 0.5, 0.5\]"):
        inner["mean_std"] = HALVES
        convert_checkpoint(saved(path, content))


@pytest.mark.parametrize("section", ["data", "datamodule", "dataset"])
def test_settings_of_images_in_a_section(section):
    told = {section: {"image_size": [224, 288], "mean_std": IMAGENETS, "interpolation": "bicubic"}}
    for values in (told, {"cfg": told}, {"hyper_parameters": {"config": told}}):
        read = read_hyper_parameters(values)
        assert (read.image_size, read.interpolation, read.notes) == ((224, 288), "bicubic", [])
        with pytest.raises(InputError, match="mean_std"):
            read_hyper_parameters(values | {"mean_std": HALVES})


def test_settings_that_disagree_are_said():
    of_data = {"image_size": (224, 224), "interpolation": "InterpolationMode.BILINEAR"}
    own = {"img_size": (322, 322), "interpolation": "bicubic", "mean_std": IMAGENETS}
    read = lightnings({"config": own}, of_data)
    assert (read.image_size, read.interpolation) == ((224, 224), "bilinear")
    assert sorted(read.notes) == [
        "image size: (224, 224) taken; settings also say (322, 322)",
        "interpolation: 'bilinear' taken; settings also say 'bicubic'",
    ]
    assert not lightnings(own, dict(own)).notes
    with pytest.raises(InputError, match="mean_std"):
        lightnings(own, {"mean_std": HALVES})


@pytest.mark.parametrize("deep", [lambda x: {"model": {"x": x}}, lambda x: {"val": [{"tf": x}]}])
def test_settings_that_lie_too_deep_are_said(deep):
    told = deep({"image_size": 224, "mean": [0, 0, 0], "resize": None, "lr": 1})
    line = "hyper-parameters not read, though they may change images: image_size, mean"
    assert lightnings(told, {"image_size": (64, 64)}).notes == [line]


@pytest.mark.parametrize("size", [(322, 322), (336, 336), (321, 330)])
def test_image_sizes_that_are_no_multiple_of_the_stride(path, size):
    content = lightning(weights(MIXVPR, (322, 322)), size, in_h=21, in_w=21)
    conversion = convert_checkpoint(saved(path, content))
    assert conversion.model.config.image_size == size
    assert not conversion.checkpoint.notes


def test_the_largest_images_of_a_map_are_said(path):
    content = lightning(weights(MIXVPR, (322, 322)), in_h=21, in_w=21)
    conversion = convert_checkpoint(saved(path, content))
    assert conversion.model.config.image_size == (336, 336)
    assert (
        "note: images taken as 336x336, the largest with a map of 21x21 (--image-size H W"
        in conversion.summary()
    )
    given = convert_checkpoint(path, image_size=(322, 322))
    assert given.model.config.image_size == (322, 322)
    assert not given.checkpoint.notes


@pytest.mark.parametrize("aggregator", [CONVAP, GEM, CosPlaceConfig(8)], ids=lambda a: a.name)
def test_a_size_that_nothing_tells_is_said(path, aggregator):
    assumed = convert_checkpoint(saved(path, weights(aggregator)), pool_size=(2, 2))
    assert assumed.model.config.image_size == (320, 320)
    assert assumed.checkpoint.notes == [
        "images taken as 320x320, as is usual (--image-size H W for another size)"
    ]
    given = convert_checkpoint(path, pool_size=(2, 2), image_size=(480, 640))
    assert given.model.config.image_size == (480, 640)
    assert not given.checkpoint.notes


def test_openvprlabs_map_and_size(path):
    told = {"in_channels": 256, "in_h": 16, "in_w": 25}
    whole = lab(weights(MIXVPR, (256, 400)), [256, 400], **told)
    conversion = convert_checkpoint(saved(path, whole))
    assert conversion.model.config.feature_size == (16, 25)
    assert conversion.model.config.image_size == (256, 400)
    no_size = lab(weights(MIXVPR, (256, 400)), **told)
    assert convert_checkpoint(saved(path, no_size)).model.config.image_size == (256, 400)
    no_map = lab(weights(MIXVPR, (256, 400)), [250, 390])
    assert convert_checkpoint(saved(path, no_map)).model.config.image_size == (250, 390)


def test_openvprlabs_cells_and_evaluation(path):
    content = lab(weights(CONVAP), [224, 224], [322, 322], cls="ConvAP", s1=3, s2=1)
    conversion = convert_checkpoint(saved(path, content))
    assert conversion.model.config.aggregator == ConvAPConfig(8, 3, 1)
    assert conversion.model.config.image_size == (322, 322)
    assert "images of 322x322, as it was validated; trained with 224x224" in conversion.summary()


def test_openvprlab_resizes_bicubically(path, tmp_path):
    conversion = convert_checkpoint(saved(path, lab(weights(GEM), [64, 96], cls="GeMPool", p=3)))
    assert conversion.model.config.interpolation == "bicubic"
    assert "images: 64x96, bicubic" in conversion.summary()
    assert convert_checkpoint(saved(path, weights(GEM))).model.config.interpolation == "bilinear"


def test_openvprlabs_names_of_backbones(path):
    state = weights(GEM)
    for given, expected in {"resnext50": "resnext50_32x4d", "ResNet18": "resnet18"}.items():
        told = {"backbone": {"params": {"backbone_name": given}}}
        assert read_hyper_parameters(told).arch == expected
    assert convert_checkpoint(saved(path, openvprlab(state))).model.config.arch == "resnet18"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda: lightning(weights(MIXVPR, (64, 64)), (480, 640), in_h=4, in_w=4),
            r"480x640 in the hyper-parameters make a feature map of 30x40, in_h and in_w say 4x4",
        ),
        (
            lambda: lightning(weights(MIXVPR, (64, 64)), (480, 640)),
            r"feature map of 30x40, MixVPR's weights are for 16 positions; .* --image-size H W",
        ),
        (
            lambda: lightning(weights(MIXVPR, (64, 64)), in_h=5, in_w=4),
            "expected 16 positions, found 5x4",
        ),
        (
            lambda: lightning(weights(CONVAP), (480, 640), in_h=20, in_w=20),
            "in_h and in_w say 20x20",
        ),
        (
            lambda: lab(weights(None), [320, 320], cls="AVGPool"),
            r"no weights of an aggregator and 'AVGPool' in the hyper-parameters",
        ),
        (lambda: lab(weights(GEM), [320, 320]), "found weights of GeM and 'MixVPR'"),
    ],
)
def test_contradictions(path, content, message):
    with pytest.raises(InputError, match=message):
        convert_checkpoint(saved(path, content()))


def test_what_is_given_has_the_last_word(path):
    content = lightning(weights(MIXVPR, (64, 64)), (480, 640), in_h=16, in_w=1)
    saved(path, content)
    assert convert_checkpoint(path, image_size=(60, 64)).model.config.image_size == (60, 64)
    with pytest.raises(InputError, match="feature map of 4x4, --in-size say 2x8"):
        convert_checkpoint(path, image_size=(64, 64), in_size=(2, 8))
    with pytest.raises(InputError, match="make a feature map of 20x20, MixVPR's weights are for"):
        convert_checkpoint(path, image_size=(320, 320))
    with pytest.raises(InputError, match="above 0, found 0 64"):
        convert_checkpoint(path, image_size=(0, 64))


def test_a_bare_backbone_is_said(path):
    assert "taken as a bare backbone" in convert_checkpoint(saved(path, weights(None))).summary()


def test_an_aggregator_by_another_name_is_said(path):
    content = lab(weights(GEM), [320, 320], cls="MyGeM")
    assert "weights of GeM, which the hyper-parameters call 'MyGeM'" in (
        convert_checkpoint(saved(path, content)).summary()
    )


def test_the_filter_of_a_released_convap_is_said(path):
    """Its README says so of the one of 4,096 values; no file does."""
    for channels, cells, said in ((1024, (2, 2), True), (1024, (1, 1), False), (8, (2, 2), False)):
        state = weights(ConvAPConfig(channels))
        notes = convert_checkpoint(saved(path, state), pool_size=cells).checkpoint.notes
        assert any("trained with a bicubic one" in note for note in notes) == said
    conversion = convert_checkpoint(
        saved(path, openvprlab(weights(ConvAPConfig(1024)))), pool_size=(2, 2)
    )
    assert "trained with a bicubic one" not in conversion.summary()


HALVES = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
IMAGENETS = {"mean": [0.485, 0.456, 0.406], "std": (0.229, 0.224, 0.225)}


@pytest.mark.parametrize("where", ["datamodule_hyper_parameters", "hyper_parameters", "datamodule"])
def test_images_normalised_otherwise(path, where):
    content = lightning(weights(GEM), (64, 64))
    values = content["hyper_parameters"].setdefault("datamodule", {})
    values = values if where == "datamodule" else content[where]
    for other in (HALVES, IMAGENETS | {"std": [0.5, 0.5, 0.5]}, IMAGENETS | {"mean": [0, 0, 1]}):
        values["mean_std"] = other
        found = re.escape(f"found {other['mean']} and {list(other['std'])}")
        with pytest.raises(InputError, match=rf"ImageNet's mean \[0.485, 0.456, .*{found}"):
            convert_checkpoint(saved(path, content))
    values["mean_std"] = {"mean": (0.4850001, 0.456, 0.4065), "std": [0.229, 0.224, 0.225]}
    assert not convert_checkpoint(saved(path, content)).checkpoint.notes


def test_images_normalised_by_the_same_in_pixels_of_0_to_255():
    """As mmcv and detectron2 have it."""
    pixels = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
    assert not read_hyper_parameters({"cfg": {"data": pixels}, "model": {"mean_std": pixels}}).notes
    for wrong in ({"std": [1, 1, 1]}, {"mean": IMAGENETS["mean"]}):
        with pytest.raises(InputError, match="mean_std"):
            read_hyper_parameters({"data": pixels | wrong})


@pytest.mark.parametrize(
    "told",
    [3, "imagenet", [], {"mean": [0.5, 0.5, 0.5]}, HALVES | {"std": 0.5}, HALVES | {"std": [1, 1]}]
    + [HALVES | {"mean": [x, 0.5, 0.5]} for x in (float("nan"), "0.5", -1, 10**400, True)],
)
def test_a_mean_and_deviation_that_are_none(told):
    notes = lightnings(None, {"mean_std": told}).notes
    assert notes == ["hyper-parameters: mean_std ignored: no valid mean and deviation"]


def test_a_mean_and_deviation_apart_and_a_filter(path):
    """As forks of the data module name them."""
    content = lightning(weights(GEM), (64, 64))
    told = content["datamodule_hyper_parameters"]
    told |= IMAGENETS | {"interpolation": "InterpolationMode.BICUBIC"}
    conversion = convert_checkpoint(saved(path, content))
    assert conversion.model.config.interpolation == "bicubic"
    assert conversion.checkpoint.notes == [
        "images are resized with a bicubic filter, as in the hyper-parameters"
    ]
    for wrong, message in (
        (
            {"mean": HALVES["mean"]},
            r"mean_std: expected .* found \[0.5, 0.5, 0.5\] and \[0.229",
        ),
        (
            {"interpolation": "lanczos"},
            "interpolation: unknown name 'lanczos'; known: bilinear, bicubic",
        ),
    ):
        with pytest.raises(InputError, match=message):
            convert_checkpoint(
                saved(path, lightning(weights(GEM)) | {"hyper_parameters": told | wrong})
            )


def test_a_filter_that_is_told_has_the_last_word(path):
    content = lab(weights(GEM), [64, 64], cls="GeM")
    content["hyper_parameters"]["interpolation"] = "bilinear"
    assert convert_checkpoint(saved(path, content)).model.config.interpolation == "bilinear"


def test_settings_that_are_not_read_are_said():
    told = {
        "input_size": 224,
        "resize": 256,
        "Normalize": True,
        "norm_mean": 1,
        "interpolation": 3,
        "lr": 1,
        **dict.fromkeys(("loss_mean", "init_std", "noise_std", "l2_normalize"), 1),
        **dict.fromkeys(("IMAGENET_DEFAULT_MEAN", "pixel_std"), 1),
    }
    notes = lightnings(told, {"batch_size": 2, "img_per_place": 4}).notes
    line = "hyper-parameters not read, though they may change images: "
    assert notes == [
        f"{line}IMAGENET_DEFAULT_MEAN, Normalize, input_size, interpolation, norm_mean, pixel_std, "
        "resize"
    ]
    for name in ("imsize", "imgsz", "image_h", "test_resolution", "resolution", "center_crop"):
        told = {name: 224, "dim_size": 2, "padding": 1}
        assert lightnings(told, {}).notes == [line + name]
    assert "img_h and img_w ignored: no valid size" in lightnings({"img_h": 224}, {}).notes[0]


@pytest.mark.parametrize(
    ("told", "expected"),
    [({"s1": 1}, (1, 2)), ({"s2": 3.0}, (2, 3)), ({"s1": 1.0, "s2": 1}, (1, 1)), ({}, None)],
)
def test_convaps_cells(told, expected):
    read = read_hyper_parameters({"agg_config": told})
    assert (read.pool_size, read.notes) == (expected, [])


def test_cells_and_map_beside_other_settings():
    """Of a module that is made by `__init__(self, in_h, in_w, …)`."""
    told = {"in_h": 2, "in_w": 3, "s1": 4}
    for values in ({"hyper_parameters": told}, {"cfg": {"model": {"agg_config": told}}}):
        read = read_hyper_parameters(values)
        assert (read.map_size, read.pool_size) == ((2, 3), (4, 2))


@pytest.mark.parametrize("size", [[480.0, 640.0], (480, 640.0)])
def test_whole_floats_are_sizes(size):
    read = lightnings({"agg_config": {"in_h": 2.0, "in_w": 3}}, {"image_size": size})
    assert (read.image_size, read.map_size, read.notes) == ((480, 640), (2, 3), [])
    assert all(type(side) is int for side in (*read.image_size, *read.map_size))


TOLD = [{"image_size": size} for size in ({"width": 640, "height": 480}, "(480, 640)", "[480,640]")]
TOLD += [{"image_height": 480, "image_width": 640}, {"img_w": 640, "img_h": 480.0}]


@pytest.mark.parametrize("told", TOLD)
def test_sizes_by_name_and_as_yaml_reads_tuples(told):
    read = lightnings({}, told)
    assert (read.image_size, read.notes) == ((480, 640), [])


CYCLE: list = []
CYCLE.append(CYCLE)
ODD = [None, True, "320", -1, 0, 2**70, 10**400, 2.5, [], [1], [True, 320], [-1, 5], CYCLE]
ODD += [{"a": 1}, (320, "320"), [CYCLE, CYCLE], b"320", 10**5000, (320, 10**5000)]
ODD += [{"width": 640}, {"height": 0, "width": 640}, "(0, 640)", "640x480", "(480, 640, 3)"]


@pytest.mark.parametrize("odd", range(len(ODD)))
def test_settings_that_are_none(odd):
    """A stranger's: ignored, and said."""
    told = lightnings(
        {
            "backbone_arch": ODD[odd],
            "layers_to_crop": ODD[odd],
            "agg_arch": ODD[odd],
            "agg_config": {"in_h": ODD[odd], "in_w": 20, "s1": ODD[odd], "s2": ODD[odd]},
        },
        {"image_size": ODD[odd], "mean": ODD[odd]},
    )
    assert told.image_size is told.map_size is told.pool_size is None
    assert told.num_cropped == (0 if ODD[odd] == [] else None)
    assert any("in_h and in_w ignored" in note for note in told.notes)
    assert (ODD[odd] is None) != any("image_size ignored" in note for note in told.notes)
    assert (not ODD[odd]) != any("mean_std ignored" in note for note in told.notes)


@pytest.mark.parametrize("unfrozen", [0, 1, 2, 4])
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_openvprlabs_names_there_and_back(tmp_path, unfrozen, suffix):
    official = weights(MIXVPR, (64, 64))
    state = openvprlab(official, unfrozen)
    path = saved(tmp_path / "a.ckpt", state)
    model = convert_checkpoint(path).model
    assert same_weights(model, official)
    write_checkpoint(
        model, str(tmp_path / f"b{suffix}"), layout="openvprlab", unfrozen_blocks=unfrozen
    )
    if suffix == ".ckpt":
        back = torch.load(tmp_path / "b.ckpt", weights_only=True)
        assert back.keys() == state.keys()
        assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    again = convert_checkpoint(tmp_path / f"b{suffix}").model
    ours, theirs = to_state_dict(model), to_state_dict(again)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("unfrozen", [-1, 5])
def test_blocks_that_are_not_there(tmp_path, unfrozen):
    model = create_model(ModelConfig("resnet18", (4,), GEM))
    with pytest.raises(InputError, match=f"expected 0 to 4, found {unfrozen}"):
        write_checkpoint(model, tmp_path / "a.ckpt", layout="openvprlab", unfrozen_blocks=unfrozen)
    with pytest.raises(InputError, match="layout: unknown name 'lab'"):
        write_checkpoint(model, tmp_path / "a.ckpt", layout="lab")
    assert not list(tmp_path.iterdir())

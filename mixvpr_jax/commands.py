"""What the commands of `mixvpr` ask and tell; each loads what it needs when it is called.

Parameters are options, docstrings the help. `train`, `places`, `push` and `info` have modules of
their own.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Literal

import tyro

from mixvpr_jax.checks import only
from mixvpr_jax.errors import InputError, importing
from mixvpr_jax.evaluation.config import DescribeConfig, EvaluationConfig, PairsConfig
from mixvpr_jax.processes import ALONE, ProcessConfig
from mixvpr_jax.storage import AnyPath, as_path, atomic_write
from mixvpr_jax.writable import require_free

Word = tyro.conf.Positional
FOLDER = "A folder (searched at any depth), or a list: a .txt with a name a line."
PHOTOS = "A folder (searched at any depth), a photo, or a list: a .txt with a name a line."
DESCRIPTORS = "FILE.npy or FILE.h5, a path or gs://bucket/name."
MODEL = "Folder of the new model, a path or gs://bucket/folder."
SIZE = "Length of the new descriptors; more photos than that are needed."
WHITEN = "Scale each direction to unit variance."
SOURCE = (
    "Output folder of an evaluation, or descriptors as mixvpr describe writes them (.npy, .h5), "
    "which are searched in themselves unless --queries names others."
)
PAIRS = "File to write, a pair of names a line."
photos_argument = partial(tyro.conf.arg, metavar="PHOTOS", help_behavior_hint="(required)")
Checkpoint = Annotated[str, Word, tyro.conf.arg(metavar="CKPT")]


def evaluate(
    config: Annotated[EvaluationConfig, tyro.conf.arg(name="")],
    processes: Annotated[ProcessConfig, tyro.conf.arg(name="")] = ALONE,
) -> None:
    """Finds each query's place in a database of photos and reports recall@k."""
    with importing():  # before processes join
        from mixvpr_jax.distributed import is_main_process, joined
        from mixvpr_jax.evaluation import evaluate as evaluation
        from mixvpr_jax.programs import keep_programs
        from mixvpr_jax.report import write_report

    keep_programs()
    with joined(processes, training=False):
        found = evaluation.evaluate(config, write_report)
        if is_main_process():
            lines = lines_of(found.unreadable, sum(found.num_turned))
            lines += [*found.data.describe(), found.headline()]
            print(*lines, f"report: {shlex.quote(str(config.output / 'report.html'))}", sep="\n")


def describe(
    photos: Annotated[tuple[str, ...], Word, photos_argument(help=PHOTOS)],
    output: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="FILE", help=DESCRIPTORS)],
    config: Annotated[DescribeConfig, tyro.conf.arg(name="")],
) -> None:
    """Writes the descriptors of photos: FILE.npy with their names in FILE.txt, or FILE.h5 for hloc.

    One process describes all photos, on all of its devices.
    """
    with importing():
        from mixvpr_jax.evaluation.photos import describe_photos
        from mixvpr_jax.programs import keep_programs

    keep_programs()
    found = describe_photos(_only(photos), as_path(output), config)
    count, size = found.descriptors.shape
    what = f"{count} descriptors of {size} values, {found.descriptors.dtype}"
    lines = lines_of(found.reasons, found.num_turned)
    print(*lines, f"{what}: {shlex.quote(str(as_path(output)))}", sep="\n")


def pca(
    photos: Annotated[tuple[str, ...], Word, photos_argument(help=FOLDER)],
    output: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="DIR", help=MODEL)],
    size: Annotated[int, tyro.conf.arg(help=SIZE)],
    config: Annotated[DescribeConfig, tyro.conf.arg(name="")],
    whiten: Annotated[bool, tyro.conf.arg(help=WHITEN)] = False,
) -> None:
    """Learns a projection of descriptors by PCA, and writes the model that gives the shorter ones.

    The photos should be like those to search, but not the queries of a benchmark.
    """
    with importing():
        from mixvpr_jax.evaluation.projection import learn_model
        from mixvpr_jax.programs import keep_programs

    keep_programs()
    found, projection = learn_model(_only(photos), as_path(output), size, config, whiten=whiten)
    count, length = found.descriptors.shape
    what = f"{count:,} descriptors of {length} values to {size}"
    kept = f"{projection.explained:.1%} of the variance"
    lines = lines_of(found.reasons, found.num_turned)
    print(*lines, f"{what}, {kept}: {shlex.quote(str(as_path(output)))}", sep="\n")


def _only(photos: Sequence[str]) -> AnyPath:
    remedy = "give their folder, or list them: printf '%s\\n' *.jpg > photos.txt"
    return as_path(only("PHOTOS", photos, "one folder, or one list", remedy))


def lines_of(unreadable: Sequence[str], num_turned: int) -> list[str]:
    """What to tell of images that were skipped or turned."""
    lines = [f"skipped: {reason}" for reason in unreadable]
    if unreadable:
        lines.append(f"skipped {len(unreadable)} unreadable images")
    if num_turned:
        lines.append(
            f"{num_turned} images were turned upright by their EXIF orientation, which other "
            "evaluation code does not do"
        )
    return lines


def pairs(
    source: Annotated[str, Word, tyro.conf.arg(metavar="OUT", help=SOURCE)],
    file: Annotated[str, Word, tyro.conf.arg(metavar="PAIRS.txt", help=PAIRS)],
    config: Annotated[PairsConfig, tyro.conf.arg(name="")],
) -> None:
    """Writes pairs of photos to match, for hloc and COLMAP: each query with its nearest photos."""
    with importing():
        from mixvpr_jax.evaluation.pairs import check_output, find_pairs, read_photos

    output, folder = as_path(file), None if config.photos is None else as_path(config.photos)
    sources = [as_path(one) for one in (source, config.queries) if one is not None]
    check_output(output, sources, overwrite=config.overwrite)
    database, asked = read_photos(sources[0], folder)
    if config.queries is not None:
        asked = read_photos(sources[1], folder)[1]
    found = find_pairs(database, asked, config.top, config.exclude_near, config.min_score)
    with atomic_write(output) as temporary:
        lines = "".join(f"{query} {image}\n" for query, image in found)
        temporary.write_text(lines, encoding="utf-8", errors="surrogateescape")
    count = f"{len(found):,} pairs of {len(dict(found)):,} queries"
    under = f", names below {shlex.quote(str(database.folder))}" if database.folder else ""
    print(f"{count}{under}: {shlex.quote(str(output))}")


def report(
    output: Annotated[str, Word, tyro.conf.arg(metavar="OUT")],
    compare: str | None = None,
) -> None:
    """Writes report.html again from an evaluation's output folder.

    Args:
        output: The output folder of an evaluation.
        compare: The output folder of another evaluation of the same images, to compare with.
    """
    with importing():
        from mixvpr_jax.report import write_report

    folder = as_path(output)
    write_report(folder, None if compare is None else as_path(compare))
    print(f"report: {shlex.quote(str(folder / 'report.html'))}")


def export(
    weights: Annotated[str, Word, tyro.conf.arg(metavar="WEIGHTS")],
    output: Annotated[str, Word, tyro.conf.arg(metavar="FILE")],
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    opset: int | None = None,
    preprocess: bool = False,
    overwrite: bool = False,
) -> None:
    """Writes a model with its weights as a program for other runtimes.

    Args:
        weights: Model folder (also gs://), a released name, or hf://organisation/repository.
        output: FILE.onnx, or FILE.stablehlo for jax.export; FILE.json is written as well.
        dtype: Of weights and products: float16 for ONNX, bfloat16 for StableHLO.
        opset: ONNX's operators, 17 to 23; 17 if not given.
        preprocess: The ONNX graph takes uint8 images of any size, and resizes and normalises them.
        overwrite: Replace an earlier file.
    """
    with importing():
        from mixvpr_jax.export.files import export_model
        from mixvpr_jax.pretrained import from_pretrained

    path = as_path(output)
    require_free([path], "the program", overwrite=overwrite)
    model, _ = from_pretrained(weights, dtype="bfloat16" if dtype == "bfloat16" else "float32")
    facts = export_model(model, path, dtype=dtype, opset=opset, preprocess=preprocess)
    print(f"largest difference to JAX: {facts['largest_difference']:.2g}")
    print(f"written: {shlex.quote(str(path))}")
    if data := facts.get("external_data"):
        print(f"its weights are in {shlex.quote(data)}, keep that file next to it")


def to_flax(
    checkpoint: Checkpoint,
    folder: Annotated[str, Word, tyro.conf.arg(metavar="DIR")],
    image_size: tuple[int, int] | None = None,
    in_size: tuple[int, int] | None = None,
    pool_size: tuple[int, int] | None = None,
    key: str | None = None,
) -> None:
    """Converts a PyTorch checkpoint into a folder that from_pretrained opens.

    Reads the released checkpoints, Lightning ones of MixVPR and gsv-cities, OpenVPRLab's, SALAD's,
    BoQ's, MegaLoc's, CosPlace's and EigenPlaces'; bare backbones of torchvision, timm, DINOv2's
    authors and Hugging Face; and .safetensors files of the same names.

    Args:
        checkpoint: The file to read, also gs://bucket/name; nothing in it is executed.
        folder: Where model.safetensors, config.json and README.md go: a new folder, a model's that
            is replaced, or gs://bucket/folder.
        image_size: Height and width that images are resized to, which no weight tells.
        in_size: Height and width of MixVPR's feature map, where shapes do not tell.
        pool_size: Rows and columns of ConvAP's cells, which no weight tells.
        key: Where in the file the weights lie (such as model_state_dict), if in several places.
    """
    with importing():
        from mixvpr_jax.conversion.convert import convert_checkpoint
        from mixvpr_jax.model_card import converted_from
        from mixvpr_jax.pretrained import require_own_folder, save_pretrained

    source, target = as_path(checkpoint), as_path(folder)
    require_own_folder(target)
    conversion = convert_checkpoint(
        source, image_size=image_size, in_size=in_size, pool_size=pool_size, key=key
    )
    save_pretrained(conversion.model, target, origin=converted_from(source))
    print(f"{conversion.summary()}\nwritten: {folder}")


def to_torch(
    weights: Annotated[str, Word, tyro.conf.arg(metavar="DIR")],
    checkpoint: Checkpoint,
    layout: Literal["official", "openvprlab"] = "official",
    unfrozen_blocks: int = 1,
    overwrite: bool = False,
) -> None:
    """Writes a model as PyTorch code loads it, with strict=True.

    Args:
        weights: A model's folder or a released name.
        checkpoint: The file to write, also gs://bucket/name; one that ends in .safetensors has that
            format.
        layout: Whose code will load it: the official one of such a model (MixVPR and gsv-cities,
            SALAD, BoQ or MegaLoc), or OpenVPRLab's.
        unfrozen_blocks: num_unfrozen_blocks of OpenVPRLab's ResNet there, on which names depend.
        overwrite: Replace an earlier file.
    """
    with importing():
        from mixvpr_jax.conversion.convert import write_checkpoint
        from mixvpr_jax.conversion.formats import is_own
        from mixvpr_jax.conversion.layouts import layout_of
        from mixvpr_jax.models.backbones import VITS
        from mixvpr_jax.pretrained import from_pretrained

    path = as_path(checkpoint)
    require_free([path], "the checkpoint", overwrite=overwrite)
    if path.suffix in (".json", ".md", ".onnx", ".stablehlo"):  # also config.json of the model
        raise InputError(f"{path}: expected a checkpoint's name, such as FILE.ckpt, found another")
    if path.exists() and is_own(path):
        raise InputError(f"{path}: expected another file than the weights of a model's folder")
    model, _ = from_pretrained(weights)
    write_checkpoint(model, path, layout=layout, unfrozen_blocks=unfrozen_blocks)
    config = model.config
    theirs = layout_of(config, layout, unfrozen_blocks).interpolation
    if theirs != config.interpolation:
        print(
            f"note: images of this model are resized with a {config.interpolation} filter, by the "
            f"code that loads it with a {theirs} one; change that there"
        )
    if config.arch in VITS and config.final_norm and config.projection is None:
        print("note: tokens pass DINOv2's last LayerNorm: SALAD's code needs norm_layer=True")
    height, width = config.image_size  # which the file does not hold
    print(f"written: {checkpoint} ({config.arch}, {config.aggregator}, images of {height}x{width})")


CONVERT: dict[str, Callable[..., None]] = {"to-flax": to_flax, "to-torch": to_torch}

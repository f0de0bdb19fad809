r"""BoQ on DINOv2 ViT-B with 12,288 values, as in OpenVPRLab (config/boq_dinov2.yaml).

    mixvpr train dinov2_vitb14_boq --workdir runs/dinov2_vitb14_boq \
        --model.init dinov2_vitb14.pth --data.root GSV_CITIES_FOLDER \
        --validation.sets pitts30k-val pitts30k-test msls-val --validation.data-dir BENCHMARKS

dinov2_vitb14.pth: DINOv2's weights (dinov2_vitb14_pretrain.pth of its authors). The last two of
twelve blocks are trained, on images of 280x280; evaluation takes 322x322.

Hardware: a GPU of 80 GB, or several devices; a third of that or less with --remat-blocks.
Time: 9.9 million images (62 k places x 4 images x 40 epochs) on a GPU; not timed here yet.
Recall: R@1 93.7 on Pitts30k-test and 93.8 on MSLS-val by the authors' released weights (README of
amaralibey/Bag-of-Queries); not trained here yet.
"""

from mixvpr_jax.models.config import BoQConfig
from mixvpr_jax.training import (
    AugmentationConfig,
    DataConfig,
    OptimizerConfig,
    StartConfig,
    TrainConfig,
)

config = TrainConfig(
    model=StartConfig(
        arch="dinov2_vitb14",
        layers_to_crop=(),
        aggregator=BoQConfig(proj_channels=384),
        image_size=(322, 322),
        dtype="bfloat16",
        interpolation="bicubic",
        final_norm=False,
    ),
    data=DataConfig(
        places_per_batch=160,
        image_size=(280, 280),
        augmentation=AugmentationConfig(magnitude=15),
    ),
    optimizer=OptimizerConfig(
        "adamw",
        learning_rate=2e-4,
        warmup_steps=3900,
        milestones=(10, 20, 30),
        factor=0.1,
        layers_to_freeze=10,
    ),
    epochs=40,
)

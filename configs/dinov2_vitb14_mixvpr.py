r"""MixVPR on DINOv2 ViT-B with 4096 values, trained as OpenVPRLab trains DINOv2.

    mixvpr train dinov2_vitb14_mixvpr --workdir runs/dinov2_vitb14_mixvpr \
        --model.init dinov2_vitb14.pth --data.root GSV_CITIES_FOLDER \
        --validation.sets pitts30k-val pitts30k-test msls-val --validation.data-dir BENCHMARKS

dinov2_vitb14.pth: DINOv2's weights (dinov2_vitb14_pretrain.pth of its authors). The last two of
twelve blocks are trained. MixVPR's weights are for one feature map, so training takes 322x322, too.

Hardware: a GPU of 80 GB, or several devices; a third of that or less with --remat-blocks.
Time: 9.9 million images (62 k places x 4 images x 40 epochs) on a GPU; not timed here yet.
Recall: R@1 90.0 on MSLS-val for MixVPR on DINOv2 (BoQ, CVPR 2024); not trained here yet.
"""

from mixvpr_jax.models.config import MixVPRConfig
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
        aggregator=MixVPRConfig(out_channels=1024, out_rows=4),
        image_size=(322, 322),
        dtype="bfloat16",
        interpolation="bicubic",
        final_norm=False,
    ),
    data=DataConfig(places_per_batch=100, augmentation=AugmentationConfig(magnitude=15)),
    optimizer=OptimizerConfig(
        "adamw",
        learning_rate=2e-4,
        warmup_steps=1500,
        milestones=(10, 20, 30),
        factor=0.1,
        layers_to_freeze=10,
    ),
    epochs=40,
)

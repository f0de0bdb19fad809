r"""MixVPR with 2048 values, as in OpenVPRLab (config/mixvpr_resnet50.yaml).

    mixvpr train resnet50_mixvpr_openvprlab --workdir runs/resnet50_mixvpr_openvprlab \
        --model.init resnet50.pth --data.root GSV_CITIES_FOLDER \
        --validation.sets pitts30k-val pitts30k-test msls-val --validation.data-dir BENCHMARKS

resnet50.pth: torchvision's ImageNet weights. Stages 1 and 2 stay frozen.

Hardware: a GPU of 24 GB, or several devices; less with --grad-cache-chunks.
Time: 9.9 million images (62 k places x 4 images x 40 epochs): 2.8 hours on a GPU that takes 1,000
images/s (not timed yet).
Recall: R@1 91.6 on Pitts30k-test for the official recipe's 4,096 values; none is published for
these settings; not trained here yet.
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
        arch="resnet50",
        aggregator=MixVPRConfig(out_channels=512, out_rows=4),
        dtype="bfloat16",
        interpolation="bicubic",
    ),
    data=DataConfig(places_per_batch=100, augmentation=AugmentationConfig(magnitude=15)),
    optimizer=OptimizerConfig(
        "adamw", learning_rate=2e-4, warmup_steps=1500, milestones=(10, 20, 30), factor=0.1
    ),
    epochs=40,
)

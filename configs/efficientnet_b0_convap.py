r"""Conv-AP with 2048 values on EfficientNet-B0, the official training; the cheapest recipe.

    mixvpr train efficientnet_b0_convap --workdir runs/efficientnet_b0_convap \
        --model.init efficientnet_b0.pth --data.root GSV_CITIES_FOLDER \
        --validation.sets pitts30k-val pitts30k-test msls-val --validation.data-dir BENCHMARKS

efficientnet_b0.pth: timm's ImageNet weights (efficientnet_b0.ra_in1k). The stem and the first six
of seven stages stay frozen, as in the official code (which trains the stem's BatchNorm).

Hardware: a GPU of 16 GB, or several devices; less with --remat-blocks or --grad-cache-chunks.
Time: 19.8 million images (62 k places x 4 images x 80 epochs) on a GPU; not timed yet.
Recall: R@1 90.5 on Pitts30k-test for Conv-AP on ResNet-50 (README of amaralibey/gsv-cities); none
is published for this backbone; not trained here yet.
"""

from mixvpr_jax.models.config import ConvAPConfig
from mixvpr_jax.training import OptimizerConfig, StartConfig, TrainConfig

config = TrainConfig(
    model=StartConfig(
        arch="efficientnet_b0",
        layers_to_crop=(),
        aggregator=ConvAPConfig(out_channels=512, s1=2, s2=2),
        dtype="bfloat16",
    ),
    optimizer=OptimizerConfig(layers_to_freeze=4),
)

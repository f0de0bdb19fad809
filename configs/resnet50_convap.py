r"""Conv-AP with 8192 values, trained as MixVPR is.

    mixvpr train resnet50_convap --workdir runs/resnet50_convap \
        --model.init resnet50.pth --data.root GSV_CITIES_FOLDER \
        --validation.sets pitts30k-val pitts30k-test msls-val --validation.data-dir BENCHMARKS

resnet50.pth: torchvision's ImageNet weights. Stages 1 and 2 stay frozen.

Hardware: with all four stages, a GPU of 40 GB, or several devices; less with --grad-cache-chunks.
Time: 19.8 million images (62 k places x 4 images x 80 epochs): 5.5 hours on a GPU that takes 1,000
images/s (not timed yet).
Recall: R@1 92.8 on Pitts250k-test, 90.5 on Pitts30k-test and 83.1 on MSLS-val by the authors' code,
trained on GSV-Cities too (README of amaralibey/gsv-cities); not trained here yet.
"""

from mixvpr_jax.models.config import ConvAPConfig
from mixvpr_jax.training import StartConfig, TrainConfig

config = TrainConfig(
    model=StartConfig(
        arch="resnet50",
        layers_to_crop=(),
        aggregator=ConvAPConfig(out_channels=2048, s1=2, s2=2),
        dtype="bfloat16",
    ),
)

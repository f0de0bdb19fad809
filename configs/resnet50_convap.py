r"""Conv-AP with 8192 values, trained as MixVPR is.

    python train.py resnet50_convap --workdir runs/resnet50_convap \
        --model.init resnet50.pth --data.root GSV_CITIES_FOLDER \
        --validation.sets pitts30k-val pitts30k-test msls-val --validation.data-dir BENCHMARKS

resnet50.pth are torchvision's ImageNet weights, of which stages 1 and 2 are not trained further.

Hardware: all four stages are kept: a GPU of 40 GB, or several devices; with
--grad-cache-chunks less will do.
Time: 19.8 million images (62 k places x 4 images x 80 epochs): 5.5 hours on a GPU that takes 1,000
images/s (none was timed here yet).
Recall: R@1 92.8 on Pitts250k-test, 90.5 on Pitts30k-test and 83.1 on MSLS-val by the authors' code,
trained on GSV-Cities too (README of amaralibey/gsv-cities); not yet trained here.
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

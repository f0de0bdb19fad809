r"""MixVPR with 1024 values on ResNet-18, the official training: for small devices.

    mixvpr train resnet18_mixvpr --workdir runs/resnet18_mixvpr \
        --model.init resnet18.pth --data.root GSV_CITIES_FOLDER \
        --validation.sets pitts30k-val pitts30k-test msls-val --validation.data-dir BENCHMARKS

resnet18.pth: torchvision's ImageNet weights. Stages 1 and 2 stay frozen.

Hardware: a GPU of 12 GB, or several devices; less with --grad-cache-chunks.
Time: 19.8 million images (62 k places x 4 images x 80 epochs) on a GPU, two fifths of
resnet50_mixvpr_4096's work; not timed yet.
Recall: R@1 91.6 on Pitts30k-test for MixVPR on ResNet-50; none is published for this backbone; not
trained here yet.
"""

from mixvpr_jax.models.config import MixVPRConfig
from mixvpr_jax.training import StartConfig, TrainConfig

config = TrainConfig(
    model=StartConfig(
        arch="resnet18",
        aggregator=MixVPRConfig(out_channels=256, out_rows=4),
        dtype="bfloat16",
    ),
)

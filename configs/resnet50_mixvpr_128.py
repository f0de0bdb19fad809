r"""MixVPR with 128 values, the official recipe.

    mixvpr train resnet50_mixvpr_128 --workdir runs/resnet50_mixvpr_128 \
        --model.init resnet50.pth --data.root GSV_CITIES_FOLDER \
        --validation.sets pitts30k-val pitts30k-test msls-val --validation.data-dir BENCHMARKS

resnet50.pth: torchvision's ImageNet weights. Stages 1 and 2 stay frozen.

Hardware: a GPU of 24 GB (the authors' code takes 18.3), or several devices; less with
--grad-cache-chunks.
Time: 19.8 million images (62 k places x 4 images x 80 epochs): 5.5 hours on a GPU that takes 1,000
images/s (not timed yet), 115 days on the two CPU cores of benchmarks/README.md.
Recall: R@1 87.8 on Pitts30k-test and 78.5 on MSLS-val by the authors' code; not trained here yet.
"""

from mixvpr_jax.models.config import MixVPRConfig
from mixvpr_jax.training import StartConfig, TrainConfig

config = TrainConfig(
    model=StartConfig(
        arch="resnet50",
        aggregator=MixVPRConfig(out_channels=64, mix_depth=4, out_rows=2),
        dtype="bfloat16",
    ),
)

r"""MixVPR with 4096 values, the official recipe.

    mixvpr train resnet50_mixvpr_4096 --workdir runs/resnet50_mixvpr_4096 \
        --model.init resnet50.pth --data.root GSV_CITIES_FOLDER \
        --validation.sets pitts30k-val pitts30k-test msls-val --validation.data-dir BENCHMARKS

resnet50.pth: torchvision's ImageNet weights. Stages 1 and 2 stay frozen.

Hardware: a GPU of 24 GB (the authors' code takes 18.3), or several devices; less with
--grad-cache-chunks.
Time: 19.8 million images (62 k places x 4 images x 80 epochs): 5.5 hours on a GPU that takes 1,000
images/s (not timed yet), 115 days on the two CPU cores of benchmarks/README.md.
Recall: R@1 91.6 on Pitts30k-test and 88.2 on MSLS-val by the authors' code; not trained here yet.
"""

from mixvpr_jax.models.config import MixVPRConfig
from mixvpr_jax.training import StartConfig, TrainConfig

config = TrainConfig(
    model=StartConfig(
        arch="resnet50",
        aggregator=MixVPRConfig(out_channels=1024, mix_depth=4, out_rows=4),
        dtype="bfloat16",
    ),
)

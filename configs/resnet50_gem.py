r"""GeM pooling with 2048 values, trained as MixVPR is.

    mixvpr train resnet50_gem --workdir runs/resnet50_gem \
        --model.init resnet50.pth --data.root GSV_CITIES_FOLDER \
        --validation.sets pitts30k-val pitts30k-test msls-val --validation.data-dir BENCHMARKS

resnet50.pth: torchvision's ImageNet weights. Stages 1 and 2 stay frozen.

Hardware: with all four stages, a GPU of 40 GB, or several devices; less with --grad-cache-chunks.
Time: 19.8 million images (62 k places x 4 images x 80 epochs): 5.5 hours on a GPU that takes 1,000
images/s (not timed yet).
Recall: R@1 62.3 on MSLS-val by others' code, trained on MSLS at 224x224 with triplets (README
of mapillary/mapillary_sls); this recipe has not been trained here yet.
"""

from mixvpr_jax.models.config import GeMConfig
from mixvpr_jax.training import StartConfig, TrainConfig

config = TrainConfig(
    model=StartConfig(
        arch="resnet50",
        layers_to_crop=(),
        aggregator=GeMConfig(p=3.0),
        dtype="bfloat16",
    ),
)

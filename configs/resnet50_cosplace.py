r"""CosPlace's head with 2048 values, trained as MixVPR is.

    mixvpr train resnet50_cosplace --workdir runs/resnet50_cosplace \
        --model.init resnet50.pth --data.root GSV_CITIES_FOLDER \
        --validation.sets pitts30k-val pitts30k-test msls-val --validation.data-dir BENCHMARKS

resnet50.pth: torchvision's ImageNet weights. Stages 1 and 2 stay frozen.

Hardware: with all four stages, a GPU of 40 GB, or several devices; less with --grad-cache-chunks.
Time: 19.8 million images (62 k places x 4 images x 80 epochs): 5.5 hours on a GPU that takes 1,000
images/s (not timed yet).
Recall: R@1 92.3 on Pitts250k-test, 90.9 on Pitts30k-test and 87.4 on MSLS-val by its authors' code,
which trains on another data set, SF-XL, by classification (Berton et al., EigenPlaces, ICCV 2023,
tables 3 and 4); this recipe has not been trained here yet.
"""

from mixvpr_jax.models.config import CosPlaceConfig
from mixvpr_jax.training import StartConfig, TrainConfig

config = TrainConfig(
    model=StartConfig(
        arch="resnet50",
        layers_to_crop=(),
        aggregator=CosPlaceConfig(out_dim=2048),
        dtype="bfloat16",
    ),
)

r"""SALAD on DINOv2 ViT-B, its authors' recipe.

    mixvpr train dinov2_vitb14_salad --workdir runs/dinov2_vitb14_salad \
        --model.init dinov2_vitb14.pth --data.root GSV_CITIES_FOLDER \
        --validation.sets pitts30k-val pitts30k-test msls-val --validation.data-dir BENCHMARKS

dinov2_vitb14.pth: DINOv2's weights (dinov2_vitb14_pretrain.pth of its authors). The last four of
twelve blocks are trained, on images of 224x224; evaluation takes 322x322. Unlike the authors, no
dropout.

Hardware: a GPU of 12 GB (the peak on an H200 was 9.0 GB, at 56 ms a step of 240 images).
Time: 1.0 million images (62 k places x 4 images x 4 epochs): 30 minutes on a GPU (RTX 3090) by
its authors' code; steps alone take 4 minutes on a GPU (H200) here.
Recall: R@1 95.1 on Pitts250k-test and 92.2 on MSLS-val by the authors' code (Izquierdo, Civera,
CVPR 2024); not trained here yet.
"""

from mixvpr_jax.models.config import SALADConfig
from mixvpr_jax.training import DataConfig, OptimizerConfig, StartConfig, TrainConfig

config = TrainConfig(
    model=StartConfig(
        arch="dinov2_vitb14",
        layers_to_crop=(),
        aggregator=SALADConfig(),
        image_size=(322, 322),
        dtype="bfloat16",
    ),
    data=DataConfig(places_per_batch=60, image_size=(224, 224)),
    optimizer=OptimizerConfig(
        "adamw",
        learning_rate=6e-5,
        weight_decay=9.5e-9,
        warmup_steps=0,
        milestones=(),
        linear_decay_steps=4000,
        layers_to_freeze=8,
    ),
    epochs=4,
)

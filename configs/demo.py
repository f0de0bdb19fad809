"""A small network on a generated town: what `make demo` trains.

    make demo, or, where the town is drawn already:
    mixvpr train demo --workdir out/demo/run

Hardware: two CPU cores.
Time: about three minutes on two CPU cores of a shared host, for 160 steps of 64 images.
Recall: R@1 94.7 on places of the town that were never trained on (96.7 on another processor), 30.3
before training.
"""

from pathlib import Path

from mixvpr_jax.models.config import MixVPRConfig
from mixvpr_jax.training import (
    AugmentationConfig,
    DataConfig,
    OptimizerConfig,
    StartConfig,
    TrainConfig,
    ValidationConfig,
)

TOWN = Path("out/demo/town")

config = TrainConfig(
    model=StartConfig(
        arch="resnet18",
        layers_to_crop=(3, 4),
        aggregator=MixVPRConfig(out_channels=64, mix_depth=2, out_rows=4),
        image_size=(80, 112),
    ),
    data=DataConfig(
        root=TOWN / "train",
        cities=("Avalon", "Brigadoon"),
        places_per_batch=16,
        augmentation=AugmentationConfig(num_ops=0),  # 160 steps are too few to gain from it
    ),
    optimizer=OptimizerConfig(
        name="adamw", learning_rate=1e-3, warmup_steps=30, milestones=(5, 7), layers_to_freeze=None
    ),
    validation=ValidationConfig(sets=(TOWN / "val", TOWN / "test"), before_training=True),
    epochs=8,
    log_every_steps=1,
)

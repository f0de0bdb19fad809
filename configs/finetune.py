r"""Trains a released MixVPR further on one's own places.

    mixvpr places PHOTOS --output DATA
    mixvpr train finetune --workdir RUN --data.root DATA
    mixvpr train finetune --workdir RUN --data.root DATA \
        --validation.sets OTHER_STREETS --validation.before-training

OTHER_STREETS: folders `database` and `queries`, see docs/own_places.md. Every city is taken.
Other weights: --model.init FILE_OR_FOLDER, and --model.aggregator.* where they have other sizes.

Hardware: a GPU of 16 GB, or less with --grad-cache-chunks.
Time: ten epochs, a step of 240 images for every 60 places. The small network of the next line took
six minutes on two CPU cores.
Recall: R@1 72.0 on other streets of a generated town with harder weather and light, 52.7 before;
docs/own_places.md has the command. Not trained from the released weights yet.
"""

from mixvpr_jax.models.config import MixVPRConfig
from mixvpr_jax.training import DataConfig, OptimizerConfig, StartConfig, TrainConfig

config = TrainConfig(
    model=StartConfig(
        arch="resnet50",
        aggregator=MixVPRConfig(out_channels=1024, mix_depth=4, out_rows=4),
        dtype="bfloat16",
        init="resnet50_4096",
    ),
    data=DataConfig(cities=(), places_per_batch=60, shuffle_cities=True),
    optimizer=OptimizerConfig(
        name="adamw", learning_rate=2e-5, warmup_steps=20, milestones=(5, 8), factor=0.3
    ),
    epochs=10,
)

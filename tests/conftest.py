"""Every test runs on 8 fake CPU devices, with typed shapes checked and implicit promotion off."""

import os

import jax
from hypothesis import settings
from jaxtyping import install_import_hook

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
CHECKED = ("models", "evaluation", "losses", "mining", "masked")
install_import_hook([f"mixvpr_jax.{name}" for name in CHECKED], "typechecker.check")

# Anew each time on a developer's machine; the same cases each time where a red run blocks others.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# Shared fixtures; pytest imports these once the lines above have run.
pytest_plugins = ["checkpoints", "folders", "runs", "small_model", "stores"]

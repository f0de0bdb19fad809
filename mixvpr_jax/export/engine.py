"""Engines that run a model's ONNX graph on CPUs, faster there than XLA."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mixvpr_jax.checks import to_array
from mixvpr_jax.conversion import get_weights, weights_hash
from mixvpr_jax.errors import InputError, extra
from mixvpr_jax.models.config import Engine
from mixvpr_jax.models.vpr import VPRModel, check_images
from mixvpr_jax.storage import named_when_full
from mixvpr_jax.workers import num_processors

Run = Callable[[np.ndarray], np.ndarray]


class EngineModel:
    """A model that an engine runs: normalised images [b, h, w, 3] → descriptors [b, d], float32.

    Calls from several threads are safe.

    Attributes:
        config: The model's configuration.
        engine: "onnxruntime", "openvino" or "openvino-bfloat16".
        weights_hash: SHA-256 of the model's weights.
    """

    def __init__(self, model: VPRModel, engine: Engine) -> None:
        if model.config.dtype != "float32":
            raise InputError(
                f"engine {engine}: expected to compute in float32, found {model.config.dtype}; "
                "leave dtype out"
            )
        self.config, self.engine = model.config, engine
        self.weights_hash = weights_hash(get_weights(model))
        with extra(engine.partition("-")[0], f"engine {engine}: expected onnx to write the graph"):
            from mixvpr_jax.export.graph import save, to_onnx
        # By way of a file, as no engine takes more than 2 GB from memory.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            file = Path(folder, "model.onnx")
            with named_when_full(file):
                save(to_onnx(model), file)
            is_onnx = engine == "onnxruntime"
            self._run = onnxruntime_run(file) if is_onnx else openvino_run(file, engine)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Computes descriptors; raises InputError for images that do not fit the model."""
        images = to_array("images: expected an array", images)
        check_images(self.config, images)
        if images.shape[1:3] != self.config.image_size:
            raise InputError(
                f"engine {self.engine}: expected images of {self.config.image_size}, found "
                f"{images.shape[1:3]}; set image_size in the model's config.json"
            )
        if not np.isfinite(images).all():  # OpenVINO would compute on, as if NaN were a number
            raise InputError("images: expected finite values, found NaN or infinity")
        return self._run(np.ascontiguousarray(images, np.float32))


def onnxruntime_run(file: Path) -> Run:
    """A function that runs a file's graph of one input and one output by ONNX Runtime."""
    with extra("onnxruntime", "engine onnxruntime: expected ONNX Runtime"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_processors()
    session: Any = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


def openvino_run(file: Path, engine: Engine = "openvino") -> Run:
    """The same by OpenVINO."""
    # It would report its import over the network, from a fork that JAX's threads do not survive.
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
    with extra("openvino", f"engine {engine}: expected OpenVINO"):
        import openvino
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(file),
        "CPU",
        {  # by itself it takes bfloat16 where a processor has it
            "INFERENCE_PRECISION_HINT": "bf16" if engine.endswith("bfloat16") else "f32",
            "INFERENCE_NUM_THREADS": num_processors(),
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    requests = threading.local()

    def run(images: np.ndarray) -> np.ndarray:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        return np.array(requests.own.infer([images])[0])

    return run

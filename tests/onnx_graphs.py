"""ONNX graphs, checked and run."""

import onnx
import onnxruntime


def run(graph, images):
    """By ONNX Runtime."""
    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    return session.run(None, {"images": images})[0]

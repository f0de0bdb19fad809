"""Models for other runtimes: ONNX, StableHLO, and the CPU engines that run the former."""

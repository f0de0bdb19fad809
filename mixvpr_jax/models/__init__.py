"""The model: a cut ResNet backbone and an aggregator, one descriptor an image."""

"""The model: a backbone and an aggregator that turn an image into a descriptor."""

"""The model: a ResNet backbone and an aggregator that give each image a descriptor."""

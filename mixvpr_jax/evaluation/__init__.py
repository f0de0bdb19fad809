"""From images to recall: descriptors, retrieval, recall, report."""

"""What models are trained on: GSV-Cities, sampled, augmented and loaded batch by batch."""

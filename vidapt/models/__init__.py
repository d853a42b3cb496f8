"""The panoptic network: encoder, heads and fusion."""

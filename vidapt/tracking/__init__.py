"""Online tracking of panoptic instances with bounded state."""

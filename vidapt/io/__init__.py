"""Reading videos and images, writing segmentations, pictures and reports."""

"""Self-training on unlabelled clips: one file per idea, composed by ``step.py``."""

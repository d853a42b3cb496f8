"""Metrics from one joint histogram per frame."""

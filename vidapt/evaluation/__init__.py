"""Metrics that equal the official scorers; everything is counted from a few passes over each frame.

``runner.VideoEvaluator`` scores a stream of frames by all of them. The functions and accumulators that it is made of
serve on their own: ``semantic`` (mIoU of classes and categories), ``instance_weighted`` (iIoU), ``panoptic`` (PQ,
PQ-dagger), ``boundary`` (boundary IoU and PQ), ``instance`` (AP of COCO and of Cityscapes), ``video`` (VPQ, STQ),
``consistency`` (flicker, TC, id switches) and ``constancy`` (VC). PQ, VPQ, STQ and id switches read the joint
``histogram`` of a frame's target and predicted segments:

>>> import numpy as np
>>> from vidapt.evaluation.histogram import frame_histogram
>>> from vidapt.evaluation.panoptic import count_matches, panoptic_scores
>>> from vidapt.evaluation.semantic import ScoredClasses
>>> from vidapt.labels import CITYSCAPES
>>> car = CITYSCAPES.index("car")
>>> semantic, instance = np.array([[0, 0, car, car, car]], np.uint8), np.array([[0, 0, 7, 7, 7]], np.int32)
>>> ids = np.array([[1, 1, 1, 256, 256]], np.int32)  # road is train id 0, so 1; things start at 256
>>> histogram = frame_histogram(semantic, instance, ids, {256: car}, CITYSCAPES)
>>> counts = count_matches(histogram, CITYSCAPES.is_thing, len(CITYSCAPES))
>>> scores = panoptic_scores(counts, ScoredClasses.of(CITYSCAPES))
>>> round(scores.all.pq, 4), scores.all.classes
(0.6667, ('road', 'car'))
"""

"""Online tracker: gives every detection of a video a lasting id, frame by frame, with bounded state.

Configuration: mask overlap with constant-velocity predictions, two score levels (ByteTrack), a second stage on
embeddings for tracks that were lost, births only above a score, and a class vote per track that never restricts
which detection may continue it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from vidapt.clip import FIRST_THING_ID
from vidapt.errors import CheckpointError, ConfigError, VidaptError
from vidapt.tracking.associate import assign, cosines, duplicates, mask_iou, normalise, within_reach
from vidapt.tracking.detections import Detections, TrackedFrame
from vidapt.tracking.motion import blend_motion, outside, predict_boxes
from vidapt.tracking.tracks import Shapes, Tracks, measure_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

ID_LIMIT = 1 << 24
"""Panoptic ids stay below this, because three 8-bit channels hold them."""

AGE_DISCOUNT = 0.99
"""Factor on the overlap of a lost track per missed frame: at equal overlap the track seen more recently wins."""


@dataclass(kw_only=True, eq=False)
class OnlineTracker:
    """Links detections over time; one instance per video.

    Attributes:
        classes: Number C of classes.
        iou_threshold: A detection continues a track only above this mask overlap with its prediction.
        high_score: Detections from here on are linked first and may use appearance; lower ones take what is left.
        low_score: Detections below are ignored.
        birth_score: Smallest score that starts a track.
        memory: Frames that a track survives without a detection.
        motion: False predicts every track where it was.
        velocity_momentum: Share of the old velocity in its running mean.
        embedding_threshold: Smallest cosine that re-links a lost track; None switches appearance off.
        embedding_momentum: Share of the old embedding in its running mean.
        vote_decay: Factor on older class votes per detection; 0 makes the latest class win.
        duplicate_iou: Overlap above which a lost track is dropped in favour of a newer one in its place.
        max_tracks: Limit of tracks that are kept; the ones lost for longest go first.
        first_id: Id of the first track.

    Raises:
        ConfigError: If an option is out of range.
    """

    classes: int
    iou_threshold: float = 0.3
    high_score: float = 0.5
    low_score: float = 0.1
    birth_score: float = 0.5
    memory: int = 30
    motion: bool = True
    velocity_momentum: float = 0.7
    embedding_threshold: float | None = None
    embedding_momentum: float = 0.8
    vote_decay: float = 0.9
    duplicate_iou: float = 0.85
    max_tracks: int = 256
    first_id: int = FIRST_THING_ID
    _tracks: Tracks = field(init=False, repr=False)
    _frame: int = field(init=False, repr=False, default=0)
    _next_id: int = field(init=False, repr=False, default=0)

    def __post_init__(self) -> None:
        _check_options(self)
        self.reset()

    def __len__(self) -> int:
        return len(self._tracks)

    def reset(self) -> None:
        """Forget everything: the next frame starts a new video and ids start anew."""
        self._tracks = Tracks.empty(self.classes)
        self._frame, self._next_id = 0, self.first_id

    def scene_cut(self) -> None:
        """Say that the next frame shows another view: only embeddings may link it to the tracks so far."""
        tracks = self._tracks
        if self.embedding_threshold is None:
            self._tracks = tracks.select(np.zeros(len(tracks), bool))
            return
        tracks = tracks.select(np.any(tracks.embeddings, axis=1))
        self._tracks = replace(
            tracks,
            located=np.zeros_like(tracks.located),
            velocities=np.zeros_like(tracks.velocities),
            rates=np.zeros_like(tracks.rates),
        )

    def update(self, detections: Detections, frame_gap: int = 1) -> TrackedFrame:
        """Link the detections of the next frame.

        Args:
            detections: K detections.
            frame_gap: Frames since the previous update; above 1 after holes, which age the tracks.

        Raises:
            ValueError: If shapes do not fit or ``frame_gap`` is below 1.
            VidaptError: If the ids are used up.
        """
        detections = self._prepare(detections, frame_gap)
        self._frame += frame_gap
        tracks = self._tracks.select(np.less_equal(self._frame - self._tracks.seen - 1, self.memory))
        shapes = measure_shapes(detections.labels, len(detections))
        boxes = predict_boxes(tracks, self._frame - tracks.seen)
        iou = mask_iou(detections.labels, shapes.areas, tracks, boxes)
        scores = np.where(shapes.areas > 0, detections.scores, -1.0)
        track_of = self._associate(tracks, boxes, shapes, iou, replace(detections, scores=scores))
        kept = self._drop_lost(tracks, boxes, iou, track_of, _size(detections))
        born = self._births(scores, track_of)
        tracks = self._continue(tracks, shapes, detections, track_of)
        ids = np.zeros(len(detections), np.int32)
        ids[track_of >= 0] = tracks.ids[track_of[track_of >= 0]]
        ids[born] = self._new_ids(len(born))
        self._tracks = self._make_room(tracks.select(kept), len(born)).join(self._start(shapes, detections, born, ids))
        return _report(self._tracks, self._frame, detections, ids)

    def state_dict(self) -> dict[str, NDArray]:
        """Everything that a later ``load_state_dict`` needs to go on with the same ids, as plain arrays."""
        state = {f"tracks.{name}": values.copy() for name, values in self._tracks.arrays().items()}
        return state | {"frame": np.array([self._frame], np.int64), "next_id": np.array([self._next_id], np.int64)}

    def load_state_dict(self, state: Mapping[str, NDArray]) -> None:
        """Take over a state that ``state_dict`` gave.

        Raises:
            CheckpointError: If it lacks an array or was made for another number of classes.
        """
        expected = Tracks.empty(self.classes).arrays()
        missing = sorted({"frame", "next_id", *(f"tracks.{name}" for name in expected)} - set(state))
        if missing:
            raise CheckpointError(f"tracker state lacks {', '.join(missing)}; it was written by another version")
        arrays = {name: np.array(state[f"tracks.{name}"], like.dtype) for name, like in expected.items()}
        if arrays["votes"].shape[1:] != (self.classes,):
            raise CheckpointError(
                f"tracker state has votes of shape {arrays['votes'].shape}, this tracker has {self.classes} classes; "
                "use the label space that the state was made with"
            )
        self._tracks = Tracks(**arrays)
        self._frame, self._next_id = int(state["frame"][0]), int(state["next_id"][0])

    def _prepare(self, detections: Detections, frame_gap: int) -> Detections:
        """Check the shapes and bring the embeddings to unit length and the width of the tracks."""
        count = len(detections)
        if detections.labels.ndim != 2 or detections.classes.shape != (count, self.classes):
            raise ValueError(
                f"tracker: labels must be (h,w) and classes ({count},{self.classes}), "
                f"got {detections.labels.shape} and {detections.classes.shape}"
            )
        if frame_gap < 1:
            raise ValueError(f"tracker: frame_gap must be at least 1, got {frame_gap}")
        width = self._tracks.embeddings.shape[1]
        if detections.embeddings is None:
            return replace(detections, embeddings=np.zeros((count, width), np.float32))
        embeddings = normalise(detections.embeddings)
        if width == 0:
            wide = np.zeros((len(self._tracks), embeddings.shape[1]), np.float32)
            self._tracks = replace(self._tracks, embeddings=wide)
        elif embeddings.shape[1] != width:
            raise ValueError(f"tracker: embeddings have {embeddings.shape[1]} values, earlier ones had {width}")
        return replace(detections, embeddings=embeddings)

    def _associate(
        self,
        tracks: Tracks,
        boxes: NDArray[np.float64],
        shapes: Shapes,
        iou: NDArray[np.float64],
        detections: Detections,
    ) -> NDArray[np.int64]:
        """Row of the track that each detection continues, int64 (K,), -1 for none."""
        track_of = np.full(len(detections), -1, np.int64)
        free = np.ones(len(tracks), bool)
        lost = self._frame - tracks.seen - 1
        scores = detections.scores
        high = scores >= self.high_score
        overlap = iou * (AGE_DISCOUNT**lost)[:, None]
        for level in (high, ~high & (scores >= self.low_score)):
            rows, columns = assign(overlap, (iou > self.iou_threshold) & free[:, None] & level)
            track_of[columns] = rows
            free[rows] = False
        if self.embedding_threshold is None or detections.embeddings is None:
            return track_of
        cosine = cosines(tracks.embeddings, detections.embeddings)
        near = within_reach(boxes, shapes.boxes, lost) | ~tracks.located[:, None]
        allowed = (cosine > self.embedding_threshold) & near & free[:, None] & (high & (track_of < 0))
        rows, columns = assign(cosine + 2.0, allowed)
        track_of[columns] = rows
        return track_of

    def _drop_lost(
        self,
        tracks: Tracks,
        boxes: NDArray[np.float64],
        iou: NDArray[np.float64],
        track_of: NDArray[np.int64],
        size: tuple[int, int],
    ) -> NDArray[np.bool_]:
        """bool (T,): False for lost tracks that are too old, left the image or have a newer track in their place."""
        lost = np.ones(len(tracks), bool)
        lost[track_of[track_of >= 0]] = False
        gone = (self._frame - tracks.seen > self.memory) | (tracks.located & outside(boxes, size))
        return ~(lost & (gone | duplicates(iou, tracks, track_of, self.duplicate_iou)))

    def _births(self, scores: NDArray[np.float64], track_of: NDArray[np.int64]) -> NDArray[np.int64]:
        """Detections that start a track, the best if there is not room for all, by rising position."""
        candidates = np.flatnonzero((track_of < 0) & (scores >= self.birth_score))
        room = self.max_tracks - np.count_nonzero(track_of >= 0)
        best = np.argsort(-scores[candidates], kind="stable")[: max(room, 0)]
        return np.sort(candidates[best])

    def _make_room(self, tracks: Tracks, wanted: int) -> Tracks:
        """Drop the tracks lost for longest (ties: the oldest) so that ``wanted`` more fit."""
        surplus = len(tracks) + wanted - self.max_tracks
        if surplus <= 0:
            return tracks
        keep = np.ones(len(tracks), bool)
        keep[np.argsort(tracks.seen, kind="stable")[:surplus]] = False
        return tracks.select(keep)

    def _new_ids(self, count: int) -> NDArray[np.int32]:
        if self._next_id + count > ID_LIMIT:
            raise VidaptError(
                f"the video needs more than {ID_LIMIT - self.first_id} track ids; raise birth_score or split the video"
            )
        self._next_id += count
        return np.arange(self._next_id - count, self._next_id, dtype=np.int32)

    def _start(self, shapes: Shapes, detections: Detections, born: NDArray[np.int64], ids: NDArray[np.int32]) -> Tracks:
        assert detections.embeddings is not None  # noqa: S101 - filled by _prepare
        count = len(born)
        return Tracks(
            ids=ids[born],
            born=np.full(count, self._frame, np.int64),
            seen=np.full(count, self._frame, np.int64),
            hits=np.ones(count, np.int32),
            located=np.ones(count, bool),
            boxes=shapes.boxes[born],
            cut=shapes.cut[born],
            velocities=np.zeros((count, 2)),
            rates=np.zeros(count),
            areas=shapes.areas[born],
            grids=shapes.grids[born],
            cells=shapes.cells[born],
            votes=detections.classes[born].astype(np.float32),
            embeddings=detections.embeddings[born],
        )

    def _continue(self, tracks: Tracks, shapes: Shapes, detections: Detections, track_of: NDArray[np.int64]) -> Tracks:
        """The tracks with what their detections say of them."""
        found = np.flatnonzero(track_of >= 0)
        rows = track_of[found]
        fields = {name: values.copy() for name, values in tracks.arrays().items()}
        if self.motion:
            fields["velocities"][rows], fields["rates"][rows] = blend_motion(
                tracks.select(rows), shapes, found, self._frame, self.velocity_momentum
            )
        fields["votes"][rows] = self.vote_decay * tracks.votes[rows] + detections.classes[found]
        fields["embeddings"][rows] = self._blend_embeddings(tracks.embeddings[rows], detections, found)
        fields["seen"][rows] = self._frame
        fields["hits"][rows] += 1
        fields["located"][rows] = True
        for name in ("boxes", "cut", "areas", "grids", "cells"):
            fields[name][rows] = getattr(shapes, name)[found]
        return Tracks(**fields)

    def _blend_embeddings(
        self, old: NDArray[np.float32], detections: Detections, found: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Running mean of unit length; weak detections (mostly occluded) and missing vectors change nothing."""
        assert detections.embeddings is not None  # noqa: S101 - filled by _prepare
        new = detections.embeddings[found]
        blended = normalise(self.embedding_momentum * old + (1 - self.embedding_momentum) * new)
        usable = (detections.scores[found] >= self.high_score) & new.any(1)
        return np.where((usable & blended.any(1))[:, None], blended, old)


def _size(detections: Detections) -> tuple[int, int]:
    height, width = detections.labels.shape
    return height, width


def _report(tracks: Tracks, frame: int, detections: Detections, ids: NDArray[np.int32]) -> TrackedFrame:
    emitted = np.flatnonzero(ids)
    rows = np.searchsorted(tracks.ids, ids[emitted])
    categories = detections.classes.argmax(1).astype(np.int64) if len(ids) else np.zeros(0, np.int64)
    hits, ages, agreement = np.zeros_like(ids), np.zeros_like(ids), np.zeros(len(ids), np.float32)
    votes = tracks.votes[rows]
    categories[emitted] = votes.argmax(1)
    hits[emitted] = tracks.hits[rows]
    ages[emitted] = frame - tracks.born[rows] + 1
    agreement[emitted] = votes.max(1) / np.maximum(votes.sum(1), 1e-12)
    return TrackedFrame(ids, categories, np.asarray(detections.scores, np.float32), hits, ages, agreement)


def _check_options(tracker: OnlineTracker) -> None:
    shares = ("iou_threshold", "high_score", "low_score", "birth_score", "velocity_momentum", "embedding_momentum")
    for name in (*shares, "vote_decay", "duplicate_iou"):
        if not 0 <= getattr(tracker, name) <= 1:
            raise ConfigError(f"tracker: {name} must lie in 0..1, got {getattr(tracker, name)}")
    for name, least in (("classes", 1), ("memory", 0), ("max_tracks", 1), ("first_id", FIRST_THING_ID)):
        if getattr(tracker, name) < least:
            raise ConfigError(f"tracker: {name} must be at least {least}, got {getattr(tracker, name)}")
    if tracker.low_score > tracker.high_score:
        raise ConfigError(f"tracker: low_score {tracker.low_score} is above high_score {tracker.high_score}; lower it")
    if tracker.embedding_threshold is not None and not -1 <= tracker.embedding_threshold <= 1:
        raise ConfigError(f"tracker: embedding_threshold must lie in -1..1, got {tracker.embedding_threshold}")

"""`vidapt bench pipeline`: what it prints and writes, the gate before the clock, and the scorer it compares with."""

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vidapt import cli
from vidapt.clip import IGNORE
from vidapt.errors import UserError, VidaptError
from vidapt.evaluation.histogram import FrameHistogram
from vidapt.evaluation.panoptic import PanopticCounts
from vidapt.evaluation.scores import Scores
from vidapt.jobs import bench_metrics, bench_pipeline
from vidapt.jobs.bench_frames import LabelledFrame, street_frame
from vidapt.jobs.bench_stage import StageResult, Target, Timing, one_thread
from vidapt.jobs.bench_unique import (
    UniqueCounts,
    count_by_unique,
    miou_by_unique,
    overlaps_by_unique,
    stq_by_unique,
    target_ids,
)
from vidapt.labels import LabelClass, LabelSpace, find_space

SIZE = (64, 128)
SPACE = LabelSpace("toy", (LabelClass("car", True, (0, 0, 1)), LabelClass("sky", False, (0, 0, 2))))
CAR, SKY = 1, 2
"""Target ids of a crowd of cars and of sky; the car of track t is 256 t + 1."""


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench_metrics, "SIZE", SIZE)
    monkeypatch.setattr(bench_metrics, "FRAMES", 5)
    monkeypatch.setattr(sys, "argv", ["vidapt"])
    monkeypatch.delenv(cli.DEBUG, raising=False)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    """Run `vidapt bench pipeline` in this process and return its exit code."""
    sys.argv = ["vidapt", "bench", "pipeline", *arguments]
    with pytest.raises(SystemExit) as left:
        cli.main()
    code = left.value.code
    assert code is None or isinstance(code, int)
    return code or 0


# --- the command


@pytest.mark.usefixtures("_tiny")
def test_metrics(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("--stage", "metrics", "--quick", "--json", "out/found.json") == 0
    printed = capsys.readouterr().out
    for text in ("frames of 64x128", "equal to np.unique", "PQ by np.unique", "PQ, VPQ, STQ, mIoU", "target at most 8"):
        assert text in printed
    report = json.loads((tmp_path / "out/found.json").read_text())
    assert (report["schema"], report["stage"], report["finished"], report["quick"]) == (1, "metrics", True, True)
    assert report["environment"]["command"] == "vidapt bench pipeline --stage metrics --quick --json out/found.json"
    assert report["environment"]["threads"] == 1
    assert report["environment"]["numpy"] == np.__version__
    # Two of the five frames end windows of all lengths.
    samples = {row["name"]: row["samples"] for row in report["rows"]}
    assert samples == {"PQ": 20, "PQ by np.unique": 2, "PQ, VPQ(1,2,3,4)": 20, "PQ, VPQ, STQ, mIoU": 20}
    by_name = {row["name"]: row for row in report["rows"]}
    median = by_name["PQ"]["median_ms"]
    assert by_name["PQ"]["p20_ms"] <= median <= by_name["PQ"]["p80_ms"]
    assert by_name["PQ"]["speedup"] == pytest.approx(by_name["PQ by np.unique"]["median_ms"] / median)
    limits = [(target["limit"], target["at_least"]) for target in report["targets"]]
    assert limits == [(8.0, False), (1.3, False)]
    assert report["targets"][0]["value"] == median
    assert report["targets"][1]["value"] == by_name["PQ, VPQ(1,2,3,4)"]["median_ms"] / median


@pytest.mark.usefixtures("_tiny")
def test_unknown_stage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("--stage", "metric", "--json", "found.json") == 2
    assert (
        capsys.readouterr().err
        == "error: --stage metric is no stage of the pipeline; allowed: metrics, cache, adaptation\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_tiny")
def test_further_stages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = (Timing("cache", 1.0, 0.9, 1.1, 3), Timing("PNG", 4.0, 4.0, 4.0, 3))
    found = StageResult("Reading", {"frames": 2}, "pixels", rows, "PNG", (Target("speedup", 4.0, 3.0, at_least=True),))
    asked: list[bool] = []

    def measure(quick: bool) -> StageResult:
        asked.append(quick)
        return found

    monkeypatch.setitem(bench_pipeline.STAGES, "cache", measure)
    assert run("--stage", "cache") == 0
    assert asked == [False]
    printed = capsys.readouterr().out
    assert "Reading: 2 frames" in printed
    assert "speedup: 4, target at least 3: met" in printed


@pytest.mark.usefixtures("_tiny")
def test_a_file_that_cannot_be_written_is_found_before_measuring(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setitem(bench_pipeline.STAGES, "metrics", lambda quick: pytest.fail("measured"))
    assert run("--stage", "metrics", "--json", "file/found.json") == 1
    assert "cannot be written" in capsys.readouterr().err


# --- the gate


def _more_pixels(histogram: FrameHistogram) -> FrameHistogram:
    return replace(histogram, counts=histogram.counts + (np.arange(histogram.counts.size) == 0))


def _one_more_hit(counts: PanopticCounts) -> PanopticCounts:
    return replace(counts, tp=counts.tp + (np.arange(counts.tp.size) == 13))


def _slightly_more_iou(counts: PanopticCounts) -> PanopticCounts:
    return replace(counts, iou=counts.iou + 1e-6)


def _other_miou(scores: Scores) -> Scores:
    return replace(scores, miou=scores.miou + 1e-6)


def _no_tracking(scores: Scores) -> Scores:
    return replace(scores, tracking=None)


@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize(
    ("place", "wrong", "message"),
    [
        ("frame_histogram", _more_pixels, "the joint histogram of frame 0 differs from that of np.unique"),
        ("count_matches", _one_more_hit, r"tp of class 13 in PQ of frame 0 is \d+, by np.unique \d+"),
        ("count_matches", _slightly_more_iou, "iou of class 0 in PQ of frame 0"),
        ("VideoEvaluator.result", _other_miou, "mIoU is 0.*, by np.unique 0"),
        ("VideoEvaluator.result", _no_tracking, "STQ is nan, by np.unique 0"),
    ],
)
def test_wrong_results_are_not_timed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    place: str,
    wrong: Callable[[Any], Any],
    message: str,
) -> None:
    *owner, name = place.split(".")
    where = getattr(bench_metrics, owner[0]) if owner else bench_metrics
    right = getattr(where, name)
    monkeypatch.setattr(where, name, lambda *given, **named: wrong(right(*given, **named)))
    monkeypatch.setattr(bench_metrics, "_time", lambda *_: pytest.fail("timed"))
    assert run("--stage", "metrics", "--quick", "--json", "found.json") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert json.loads((tmp_path / "found.json").read_text())["finished"] is False
    with pytest.raises(VidaptError, match=f"{message}.*no speed is shown"):
        bench_metrics.measure(True)


@pytest.mark.usefixtures("_tiny")
def test_a_wrong_window_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(bench_metrics.VideoPanopticQuality):
        def update(self, histogram: FrameHistogram) -> None:
            super().update(histogram)
            if len(self._recent) == 3:
                self._recent.popleft()

    monkeypatch.setattr(bench_metrics, "VideoPanopticQuality", Forgetful)
    with pytest.raises(VidaptError, match="in VPQ over 4 frames is"):
        bench_metrics.measure(True)


# --- the frames


def test_frames_are_streets_of_about_50_segments() -> None:
    frame = street_frame(bench_metrics.SEED, 5, bench_metrics.SIZE)
    space = find_space("cityscapes")
    ids = target_ids(frame.semantic, frame.instance, space)
    assert 40 <= np.unique(ids).size <= 65
    assert 40 <= np.unique(frame.prediction.ids).size <= 65
    assert frame.semantic.dtype == frame.prediction.semantic.dtype == np.uint8
    assert frame.instance.dtype == frame.prediction.ids.dtype == np.int32
    assert (frame.semantic[-1] == IGNORE).all()
    assert (frame.prediction.ids[0] == 0).all()
    assert set(np.unique(frame.prediction.ids)) == {0, *frame.categories}
    # Without noise, one in 130 pixels differs from its left neighbour.
    borders = np.count_nonzero(np.diff(ids.astype(np.int64), axis=1)) / ids.size
    assert 0.01 < borders < 0.03


def test_frames_follow_from_the_seed() -> None:
    def maps(frame: LabelledFrame) -> tuple[Any, ...]:
        return frame.semantic, frame.instance, frame.prediction.semantic, frame.prediction.ids

    first, again, moved, other = (maps(street_frame(*key, SIZE)) for key in ((1, 0), (1, 0), (1, 3), (2, 0)))
    for number in range(4):
        np.testing.assert_array_equal(first[number], again[number])
        assert (first[number] != moved[number]).any()
        assert (first[number] != other[number]).any()


def test_predictions_are_wrong_in_every_way() -> None:
    """Tracks change their id, and there are matches as well as errors, so that the gate sees all rules."""
    space = find_space("cityscapes")
    frames = [street_frame(bench_metrics.SEED, index, (256, 512)) for index in (3, 4)]
    things = [{number for number in frame.categories if number >= 256} for frame in frames]
    assert not things[0] & things[1]
    counts = count_by_unique(_overlaps(frames[0], space), space)
    assert min(counts.tp.sum(), counts.fp.sum(), counts.fn.sum()) > 0


def _overlaps(frame: LabelledFrame, space: LabelSpace) -> Any:
    target = target_ids(frame.semantic, frame.instance, space)
    return overlaps_by_unique(target, frame.prediction.ids, frame.categories)


# --- the plain scorer


def frame_of(target: list[int], predicted: list[int], categories: dict[int, int] | None = None) -> Any:
    return overlaps_by_unique(
        np.array([target], np.uint32), np.array([predicted], np.int32), {CAR: 0, SKY: 1, **(categories or {})}
    )


def found(counts: UniqueCounts) -> tuple[list[float], list[int], list[int], list[int]]:
    return counts.iou.round(6).tolist(), counts.tp.tolist(), counts.fp.tolist(), counts.fn.tolist()


CAR_1, CAR_2 = 256 + 1, 512 + 1


@pytest.mark.parametrize(
    ("target", "predicted", "expected"),
    [
        ([CAR_1] * 3 + [SKY], [300] * 2 + [SKY] * 2, ([0.666667, 0], [1, 0], [0, 1], [0, 1])),
        ([CAR_1, CAR_1, SKY, SKY], [300, SKY, SKY, 300], ([0, 0], [0, 0], [1, 1], [1, 1])),
        # Void target pixels are taken out of the union; a prediction that mostly lies there is excused.
        ([CAR_1, CAR_1, 0, 0], [300] * 4, ([1, 0], [1, 0], [0, 0], [0, 0])),
        ([SKY, SKY, 0, 0, 0], [0, 300, 300, 300, 0], ([0, 0], [0, 0], [0, 0], [0, 1])),
        # Half is not more than half.
        ([SKY, SKY, SKY, 0, 0], [SKY, 300, 300, 300, 300], ([0, 0], [0, 0], [1, 1], [0, 1])),
        # A crowd is neither matched nor missed, and excuses its class.
        ([CAR, CAR, CAR, SKY], [300, 300, 300, SKY], ([0, 1], [0, 1], [0, 0], [0, 0])),
        ([CAR, CAR, CAR, SKY], [SKY, SKY, SKY, 0], ([0, 0], [0, 0], [0, 1], [0, 1])),
        # Void in the prediction is no segment.
        ([CAR_1, CAR_2, SKY], [0, 0, 0], ([0, 0], [0, 0], [0, 0], [2, 1])),
    ],
)
def test_counts_by_hand(target: list[int], predicted: list[int], expected: Any) -> None:
    assert found(count_by_unique(frame_of(target, predicted, {300: 0}), SPACE)) == expected


def test_tubes_have_the_class_of_their_first_frame() -> None:
    window = frame_of([CAR_1], [300], {300: 0}) + frame_of([CAR_1], [300], {300: 1})
    assert found(count_by_unique(window, SPACE)) == ([1, 0], [1, 0], [0, 0], [0, 0])


@pytest.mark.parametrize(
    ("target", "predicted", "expected"),
    [
        ("11111", "11111", 1),
        ("11111", "11222", 0.72111026),
        ("11111", "12222", 0.82462113),
        ("11111", "12345", 0.447213596),
        ("11111", "12122", 0.72111026),
        ("11111", "s1111", 0.50596443),
        ("011111", "111111", 1),
        ("011111", "222211", 0.72111026),
        ("011111", "22s111", 0.40824829),
        ("s1111", "11111", 0.56568542),
        ("s1111", "22211", 0.42426407),
        ("s1111", "22s11", 0.3),
    ],
)
def test_stq_of_deeplab2(target: str, predicted: str, expected: float) -> None:
    """Examples of deeplab2's own test, one pixel per frame; digits are car tracks, 0 a crowd, s the sky."""
    video = [
        frame_of(
            [SKY if t == "s" else 256 * int(t) + 1], [SKY if p == "s" else 300 + int(p)], {300 + n: 0 for n in range(6)}
        )
        for t, p in zip(target, predicted, strict=True)
    ]
    assert stq_by_unique(video, SPACE) == pytest.approx(expected, abs=1e-8)


def test_void_predictions_are_a_class_of_stq() -> None:
    assert stq_by_unique([frame_of([CAR_1, CAR_1, SKY], [300, 300, 0], {300: 0})], SPACE) == pytest.approx(3**-0.5)


def test_miou_of_the_bdd100k_scorer() -> None:
    pixels = [(0, 0)] * 93 + [(0, 1)] * 1 + [(1, 0)] * 4 + [(1, 1)] * 2 + [(255, 1)] * 9
    target, predicted = np.array(pixels, np.uint8).T
    assert miou_by_unique([(target[None], predicted[None])]) == pytest.approx(0.6173469387755102, abs=1e-12)
    halves = [(target[None, :50], predicted[None, :50]), (target[None, 50:], predicted[None, 50:])]
    assert miou_by_unique(halves) == pytest.approx(0.6173469387755102, abs=1e-12)


# --- what a stage finds


def test_timing_in_milliseconds() -> None:
    timing = Timing.of("it", [0.001, 0.002, 0.003, 0.004, 0.011])
    assert (timing.name, timing.samples) == ("it", 5)
    assert (timing.p20_ms, timing.median_ms, timing.p80_ms) == pytest.approx((1.8, 3.0, 5.4))


@pytest.mark.parametrize(
    ("value", "at_least", "met"), [(8.0, False, True), (8.1, False, False), (8.0, True, True), (7.9, True, False)]
)
def test_target(value: float, at_least: bool, met: bool) -> None:
    target = Target("ms", value, 8.0, at_least)
    assert target.met is met
    assert str(target).endswith("8: met" if met else "8: NOT MET")


def test_one_thread_is_given_back() -> None:
    before = cv2.getNumThreads()
    inside = []
    with suppress(UserError), one_thread():
        inside.append(cv2.getNumThreads())
        raise UserError("no")
    assert inside == [1]
    assert cv2.getNumThreads() == before

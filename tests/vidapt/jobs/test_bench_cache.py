"""`vidapt bench pipeline --stage cache`: the files that it reads, the gate before the clock, and what it reports."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vidapt import cli
from vidapt.datasets import sample_store
from vidapt.datasets.cityscapes import Cityscapes
from vidapt.datasets.clip_dataset import Labels, Sample
from vidapt.datasets.sample_store import SampleStore
from vidapt.datasets.stored import StoredDataset
from vidapt.errors import VidaptError
from vidapt.jobs import bench_cache
from vidapt.jobs.bench_frames import street_frame
from vidapt.labels import find_space

SIZE = (256, 512)
MEAN_ERROR = 2.8
"""As much shrunk a street has more detail for each pixel."""
THING_IDS = range(24, 34)
"""Label ids of Cityscapes that have instances."""


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench_cache, "SIZE", SIZE)
    monkeypatch.setattr(bench_cache, "HEIGHT", SIZE[0] // 2)
    monkeypatch.setattr(bench_cache, "MEAN_ERROR", MEAN_ERROR)
    monkeypatch.setattr(sys, "argv", ["vidapt"])
    monkeypatch.delenv(cli.DEBUG, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def street(_tiny: None, tmp_path: Path) -> Path:
    bench_cache.write_cityscapes(tmp_path / "data", 2)
    return tmp_path / "data"


def run(*arguments: str) -> int:
    """Run the stage in this process and return its exit code."""
    sys.argv = ["vidapt", "bench", "pipeline", "--stage", "cache", *arguments]
    with pytest.raises(SystemExit) as left:
        cli.main()
    code = left.value.code
    assert code is None or isinstance(code, int)
    return code or 0


# --- the command


@pytest.mark.usefixtures("_tiny")
def test_cache(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("--quick", "--json", "found.json") == 0
    printed = capsys.readouterr().out
    for text in ("pictures of 256x512 at height 128", "hits equal to misses", "first pass", "target at least 3"):
        assert text in printed
    report = json.loads((tmp_path / "found.json").read_text())
    assert (report["stage"], report["finished"], report["quick"], report["baseline"]) == ("cache", True, True, "PNG")
    median = {row["name"]: row["median_ms"] for row in report["rows"]}
    assert next(iter(median)) == "cached"
    assert {row["samples"] for row in report["rows"]} == {9}
    assert min(median.values()) > 0
    assert [(target["limit"], target["at_least"]) for target in report["targets"]] == [(3.0, True)] * 2
    for target, kind in zip(report["targets"], ("", " (no labels)"), strict=True):
        assert target["value"] == pytest.approx(median[f"PNG{kind}"] / median[f"cached{kind}"])
    about = report["about"]
    assert about["frames"] == 3
    assert about["frames/s cached"] == round(1000 / median["cached"])
    assert about["frames/s PNG (no labels)"] == round(1000 / median["PNG (no labels)"])
    assert about["% of PNG: label PNG alone"] == round(100 * median["label PNG alone"] / median["PNG"])
    assert about["% of cached: kept picture alone"] == round(100 * median["kept picture alone"] / median["cached"])
    assert list(tmp_path.iterdir()) == [tmp_path / "found.json"]


def test_passes(street: Path, tmp_path: Path) -> None:
    """Every first pass fills a cache of its own; all ways take all frames in all rounds."""
    work = tmp_path / "work"
    work.mkdir()
    result = bench_cache.measure_folder(street, work, rounds=3)
    assert [len(list(cache.rglob("*.frame"))) for cache in work.iterdir()] == [2] * (2 + 2 * 3)
    assert {row.samples for row in result.rows} == {2 * 3}
    pictures = [path.stat().st_size for path in street.rglob("*.png")]
    assert result.about["bytes a frame as PNG"] == pytest.approx(sum(pictures) / 2, abs=1)
    full = max(sum(path.stat().st_size for path in cache.rglob("*.frame")) for cache in work.iterdir())
    assert result.about["bytes a frame in the cache"] == pytest.approx(full / 2, abs=1)


def test_what_is_timed_as_cached_reads_no_original(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = {labelled: tmp_path / f"cache{labelled}" for labelled in (True, False)}
    for labelled, cache in caches.items():
        bench_cache.check(street, cache, labelled)
    read: list[str] = []
    right = StoredDataset.read_frame

    def counted(self: StoredDataset, frame: Any) -> Sample:
        read.append(frame.name)
        return right(self, frame)

    monkeypatch.setattr(StoredDataset, "read_frame", counted)
    ways = bench_cache._ways(street, caches, tmp_path)
    assert set(ways) == {
        *(f"{name}{kind}" for name in ("cached", "first pass, written", "PNG") for kind in ("", " (no labels)")),
        "kept picture alone",
        "label PNG alone",
    }
    for name, begin in ways.items():
        for _ in range(2):
            read.clear()
            result = begin()(1)
            assert len(read) == int(name.startswith(("first", "PNG"))), name
            if "alone" not in name:
                assert (result.target is None) == name.endswith("(no labels)")  # type: ignore[attr-defined]


# --- the gate


def _brighter(sample: Sample) -> Sample:
    return Sample(sample.image + np.uint8(1), sample.labels)


def _other_colours(sample: Sample) -> Sample:
    return Sample(np.ascontiguousarray(sample.image[..., ::-1]), sample.labels)


def _shifted(sample: Sample) -> Sample:
    return Sample(np.roll(sample.image, 1, 1), sample.labels)


def _other_classes(sample: Sample) -> Sample:
    if sample.labels is None:
        return sample
    semantic = sample.labels.semantic.copy()
    semantic[3, 5] = (semantic[3, 5] + 1) % 30
    return Sample(sample.image, Labels(semantic, sample.labels.instance))


def _other_tracks(sample: Sample) -> Sample:
    if sample.labels is None:
        return sample
    return Sample(sample.image, Labels(sample.labels.semantic, sample.labels.instance + (sample.labels.instance > 0)))


def _no_labels(sample: Sample) -> Sample:
    return Sample(sample.image)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (_other_colours, r"the cached picture of frame 0 differs by \d+\.\d\d grey values on average, allowed: 2\.8"),
        (_shifted, "the cached picture of frame 0 differs"),
        (_other_classes, "the cached labels of frame 0 are not the original ones"),
        (_other_tracks, "the cached labels of frame 0 are not the original ones"),
        (_no_labels, "the cached labels of frame 0 are not the original ones"),
    ],
)
@pytest.mark.usefixtures("_tiny")
def test_wrong_frames_are_not_timed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    wrong: Callable[[Sample], Sample],
    message: str,
) -> None:
    right = SampleStore.get
    monkeypatch.setattr(SampleStore, "get", lambda *given: wrong(right(*given)))
    monkeypatch.setattr(bench_cache, "_time", lambda *_: pytest.fail("timed"))
    assert run("--quick", "--json", "found.json") == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert json.loads((tmp_path / "found.json").read_text())["finished"] is False
    with pytest.raises(VidaptError, match=f"{message}.*; no speed is shown"):
        bench_cache.measure(True)


@pytest.mark.parametrize("wrong", [_brighter, _other_classes, _other_tracks, _no_labels])
def test_hits_that_differ_from_misses(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Sample], Sample]
) -> None:
    right = sample_store._read

    def read(path: Path) -> Sample | None:
        kept = right(path)
        return None if kept is None else wrong(kept)

    monkeypatch.setattr(sample_store, "_read", read)
    with pytest.raises(VidaptError, match="frame 0 is another when it comes from the cache"):
        bench_cache.check(street, tmp_path / "cache", True)


def test_a_cache_that_keeps_nothing(street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SampleStore, "_write", lambda *_: None)
    with pytest.raises(VidaptError, match="the cache keeps 0 of 2 frames"):
        bench_cache.check(street, tmp_path / "cache", True)


def test_a_cache_that_never_hits(street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_store, "_read", lambda _: None)
    with pytest.raises(VidaptError, match="the cache writes frames anew"):
        bench_cache.check(street, tmp_path / "cache", False)


# --- the files


def test_files_are_like_those_of_cityscapes(tmp_path: Path) -> None:
    """Real pictures have 2.1 to 2.7 million bytes, their instance pictures 20000 to 60000."""
    bench_cache.write_cityscapes(tmp_path, 1)
    picture = tmp_path / "leftImg8bit/train/street/street_000000_000019_leftImg8bit.png"
    labels = tmp_path / "gtFine/train/street/street_000000_000019_gtFine_instanceIds.png"
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {picture, labels}
    assert 2.1e6 < picture.stat().st_size < 2.7e6
    assert 2e4 < labels.stat().st_size < 6e4
    with Image.open(picture) as file:
        assert (file.mode, file.size) == ("RGB", (2048, 1024))
    with Image.open(labels) as file:
        assert (file.mode, file.size) == ("I;16", (2048, 1024))
        ids = np.unique(np.array(file)).tolist()
    assert 40 <= len(ids) <= 65
    assert {number // 1000 for number in ids if number >= 1000} <= set(THING_IDS)
    assert {number for number in ids if number < 1000} <= {1, *range(7, 24)}


def test_labels_are_those_of_the_street(street: Path) -> None:
    dataset = Cityscapes(street)
    assert [frame.name for frame in dataset.frames()] == ["street_000000_000019", "street_000001_000019"]
    space = find_space("cityscapes")
    for item in range(2):
        frame = street_frame(bench_cache.SEED, item, SIZE)
        target = dataset[item].target
        assert target is not None
        names = np.array([*find_space("cityscapes_ids").names, *[""] * 221])
        read = names[target.semantic[0].numpy()]
        wanted = np.array([*space.names, *[""] * 237])[frame.semantic]
        # Only the noise at the borders is smoothed away.
        assert (read == wanted).mean() > 0.9
        assert set(read.reshape(-1)) <= set(wanted.reshape(-1))
        assert ((target.instance[0].numpy() > 0) == (frame.instance > 0)).mean() > 0.9


def test_pictures_follow_from_the_seed() -> None:
    frame = street_frame(1, 0, SIZE)
    first, again, other = (bench_cache.street_picture(frame, seed) for seed in (1, 1, 2))
    assert (first.shape, first.dtype) == ((*SIZE, 3), np.uint8)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    # Sky and road can be told apart: it is a picture of these labels.
    sky, road = (first[frame.semantic == label].mean(0) for label in (10, 0))
    assert np.abs(sky - road).max() > 30

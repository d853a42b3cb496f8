"""``vidapt data stats``: counted once, known the second time, counted again when a label file changed."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.datasets.miniature import cityscapes, cityscapes_sequence
from tests.datasets.miniature.truth import Truth
from vidapt.datasets.cityscapes import Cityscapes
from vidapt.datasets.frame_index import Problem
from vidapt.errors import ConfigError, InputError, Interrupted
from vidapt.jobs import data_stats
from vidapt.jobs.data import build_stored
from vidapt.jobs.data_open import section_for
from vidapt.jobs.data_stats import RARE_PIXELS, run_stats, statistics_of
from vidapt.labels import CITYSCAPES, find_space


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vidapt" / "statistics"


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    return cityscapes.build(tmp_path / "data")


def section(truth: Truth, *options: str):
    return section_for("cityscapes", truth.root, None, options)


def count_reading(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the label files that are read from now on."""
    read: list[str] = []
    original = Cityscapes.read_labels

    def note(self, frame):
        read.append(frame.name)
        return original(self, frame)

    monkeypatch.setattr(Cityscapes, "read_labels", note)
    return read


def kept_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders if folder.is_dir() for path in folder.iterdir())


# --- counting


def test_counts_are_those_of_the_pictures(truth: Truth) -> None:
    found = statistics_of(build_stored(section(truth)), jobs=1).statistics
    void = [index for index, label in enumerate(find_space("cityscapes_ids").classes) if label.is_void]
    assert found.names == ("aachen_000000_000019", "aachen_000001_000019", "hamburg_000000_042505")
    for row, [path] in zip(found.counts, truth.videos, strict=True):
        classes = truth.frames[path].classes
        expected = np.where((classes < 0) | np.isin(classes, void), 255, classes)
        assert np.array_equal(row, np.bincount(expected.reshape(-1), minlength=256))


def test_unlabelled_frames_are_not_counted(tmp_path: Path) -> None:
    cityscapes_sequence.build(tmp_path / "data")
    found = statistics_of(build_stored(section_for("cityscapes_sequence", tmp_path / "data", "val")), jobs=1).statistics
    assert len(found.names) == len(found.counts) == 4


def test_processes_change_nothing(truth: Truth, tmp_path: Path) -> None:
    alone = statistics_of(build_stored(section(truth)), jobs=1).statistics
    for path in kept_files(truth.root / ".vidapt"):
        path.unlink()
    counted = statistics_of(build_stored(section(truth)), jobs=2)
    assert counted.written is not None
    together = counted.statistics
    assert together.names == alone.names
    assert np.array_equal(together.counts, alone.counts)


# --- kept


def test_a_second_count_reads_no_label(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    read = count_reading(monkeypatch)
    first = statistics_of(build_stored(section(truth)), jobs=1)
    assert (len(read), first.known, first.written) == (3, False, kept_files(truth.root / ".vidapt")[0])
    second = statistics_of(build_stored(section(truth)), jobs=1)
    assert (len(read), second.known, second.written) == (3, True, None)
    assert np.array_equal(first.statistics.counts, second.statistics.counts)
    assert len(kept_files(truth.root / ".vidapt")) == 1


def test_a_changed_label_is_counted_again(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    first = statistics_of(build_stored(section(truth)), jobs=1).statistics
    read = count_reading(monkeypatch)
    label = truth.root / build_stored(section(truth)).frame(1, 0).labels[0]
    Image.fromarray(np.full((48, 96), 7, np.uint16)).save(label)
    second = statistics_of(build_stored(section(truth)), jobs=1)
    assert (second.known, len(read)) == (False, 3)
    assert second.statistics.counts[1, 7] == 48 * 96
    assert np.array_equal(second.statistics.counts[[0, 2]], first.counts[[0, 2]])


def test_other_options_are_counted_apart(truth: Truth) -> None:
    whole = statistics_of(build_stored(section(truth)), jobs=1).statistics
    trimmed = statistics_of(build_stored(section(truth, "trim=[0, 24]")), jobs=1)
    assert not trimmed.known
    assert trimmed.statistics.counts.sum() * 2 == whole.counts.sum()
    some = statistics_of(build_stored(section(truth, "videos=1")), jobs=1).statistics
    assert some.names == ("aachen_000000_000019",)


def test_data_that_cannot_be_written(
    truth: Truth, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (truth.root / ".vidapt").write_text("not a folder")
    read = count_reading(monkeypatch)
    run_stats(section(truth), jobs=1)
    [kept] = kept_files(cache)
    assert f"kept in {kept}" in capsys.readouterr().out
    run_stats(section(truth), jobs=1)
    assert "known from an earlier count" in capsys.readouterr().out
    assert len(read) == 3


def test_nothing_can_be_written(truth: Truth, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It must not claim that the numbers are from an earlier count."""
    (truth.root / ".vidapt").write_text("not a folder")
    (tmp_path / "cache").write_text("not a folder")
    run_stats(section(truth), jobs=1)
    printed = capsys.readouterr().out
    assert "known from an earlier count" not in printed
    assert "not kept: neither the data folder nor the cache folder can be written" in printed


def test_a_damaged_kept_file_is_counted_again(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    first = statistics_of(build_stored(section(truth)), jobs=1).statistics
    [kept] = kept_files(truth.root / ".vidapt")
    whole = kept.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"garbage" * 100):
        kept.write_bytes(content)
        read = count_reading(monkeypatch)
        second = statistics_of(build_stored(section(truth)), jobs=1)
        assert (second.written, len(read)) == (kept, 3)
        assert np.array_equal(first.counts, second.statistics.counts)


# --- errors


def test_a_damaged_frame_is_named(truth: Truth) -> None:
    label = truth.root / build_stored(section(truth)).frame(1, 0).labels[0]
    label.unlink()
    with pytest.raises(InputError) as caught:
        statistics_of(build_stored(section(truth)), jobs=1)
    assert str(caught.value).startswith(f"{label} cannot be read as a label picture: No such file")
    assert str(caught.value).endswith("; list everything that is wrong with 'vidapt data check'")
    assert kept_files(truth.root / ".vidapt") == []


def test_problems_of_the_index_are_refused(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [Problem("", "a.json", "names x.png twice"), Problem("b", "b.png", "belongs to no picture")]
    monkeypatch.setattr(Cityscapes, "missing_stills", lambda *arguments: problems)
    with pytest.raises(
        InputError, match=r"Cityscapes train in .* has 2 problems, the first: a\.json names x\.png twice;"
    ):
        run_stats(section(truth), jobs=1)
    assert kept_files(truth.root / ".vidapt") == []


def test_an_interruption_is_one_line(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(data_stats, "_count", interrupt)
    with pytest.raises(Interrupted, match=r"^interrupted: nothing was kept; run the command again$"):
        run_stats(section(truth), jobs=1)


def test_a_wrong_id_is_named_once(truth: Truth) -> None:
    label = truth.root / build_stored(section(truth)).frame(1, 0).labels[0]
    Image.fromarray(np.full((48, 96), 77, np.uint16)).save(label)
    with pytest.raises(InputError) as caught:
        run_stats(section(truth), jobs=1)
    message = str(caught.value)
    assert message.startswith(f"{label} has label ids [77]")
    assert message.count(str(label)) == 1


def test_a_split_without_labels(tmp_path: Path) -> None:
    cityscapes.build(tmp_path, split="test")
    with pytest.raises(InputError, match=r"'test' in .* has pictures but no labels"):
        run_stats(section_for("cityscapes", tmp_path, "test"), jobs=1)


def test_an_unknown_label_space(truth: Truth) -> None:
    with pytest.raises(ConfigError, match="no label space 'citys'"):
        run_stats(section(truth), labels="citys", jobs=1)


# --- what is told


def test_json_in_the_own_space(truth: Truth, tmp_path: Path) -> None:
    run_stats(section(truth), jobs=1, json=tmp_path / "s.json")
    data = json.loads((tmp_path / "s.json").read_text())
    found = statistics_of(build_stored(section(truth)), jobs=1).statistics
    assert {key: data[key] for key in ("label_space", "frames", "data_set", "split")} == {
        "label_space": "cityscapes_ids",
        "frames": 3,
        "data_set": "cityscapes",
        "split": "train",
    }
    assert list(data["classes"]) == list(find_space("cityscapes_ids").names)
    labelled = found.counts[:, :35].sum()
    for index, name in enumerate(find_space("cityscapes_ids").names):
        entry = data["classes"][name]
        assert entry["pixels"] == found.counts[:, index].sum()
        assert entry["share"] == pytest.approx(entry["pixels"] / labelled)
        assert entry["frames"] == (found.counts[:, index] > 0).sum()
        assert entry[f"frames_above_{RARE_PIXELS}"] == (found.counts[:, index] > RARE_PIXELS).sum()
    assert sum(entry["share"] for entry in data["classes"].values()) == pytest.approx(1)


def test_json_in_another_space(truth: Truth, tmp_path: Path) -> None:
    run_stats(section(truth), labels="cityscapes", jobs=1, json=tmp_path / "s.json")
    data = json.loads((tmp_path / "s.json").read_text())
    classes = np.concatenate([frame.classes.reshape(-1) for frame in truth.frames.values()])
    raw = find_space("cityscapes_ids")
    assert data["label_space"] == "cityscapes"
    assert list(data["classes"]) == list(CITYSCAPES.names)
    for name in CITYSCAPES.names:
        assert data["classes"][name]["pixels"] == (classes == raw.names.index(name)).sum()


def test_a_class_mapping_of_the_section(tmp_path: Path) -> None:
    """Rider is a person in one convention of VIPER to Cityscapes-Seq and nothing in the other."""
    truth = cityscapes.build(tmp_path / "data")
    pixels = {}
    for name in ("cityscapes_ids_to_viper_cityscapes", "cityscapes_ids_to_viper_cityscapes_rider_ignored"):
        made = section(truth, f"mapping={name}")
        run_stats(made, labels="viper_cityscapes", jobs=1, json=tmp_path / "s.json")
        pixels[name] = json.loads((tmp_path / "s.json").read_text())["classes"]["person"]["pixels"]
    riders = sum(int((frame.classes == 25).sum()) for frame in truth.frames.values())
    assert riders > 0
    first, second = pixels.values()
    assert first - second == riders


def test_frequent_classes_are_printed_first(
    truth: Truth, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_stats, "RARE_PIXELS", 100)
    run_stats(section(truth), labels="cityscapes", jobs=1)
    printed = capsys.readouterr().out
    assert "3 labelled frames in cityscapes" in printed
    assert "with > 100 pixels" in printed
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.endswith("│")]
    assert len(rows) == 19
    shares = [float(share.removesuffix(" %")) for _, share, _, _ in rows]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.02)
    assert all(int(many) <= int(frames) <= 3 for _, _, frames, many in rows)

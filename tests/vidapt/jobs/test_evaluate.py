"""``vidapt evaluate``: a checkpoint and the folders that it segments are scored alike."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny_runs import moving_frames, tiny_recipe, write_camvid, write_images
from vidapt.config import Recipe
from vidapt.errors import ConfigError, InputError, StorageError, UserError
from vidapt.evaluation.scores import Scores
from vidapt.io.segmentation_folder import read_segmentation
from vidapt.io.writer import SegmentationWriter
from vidapt.jobs import evaluate as job
from vidapt.jobs.evaluate import evaluate as run_evaluation
from vidapt.jobs.scored_videos import evaluation_videos, frame_name, is_generated, labelled_frames
from vidapt.labels import CAMVID, CITYSCAPES, CITYSCAPES_TO_CAMVID, LabelSpace
from vidapt.segmenter import load

PANOPTIC = ("pq", "sq", "rq", "vpq", "vpq_long", "stq", "aq", "stq_sq", "id_switches", "pq_things", "vpq_stuff")


def scored_recipe(**evaluation: Any) -> Recipe:
    world = {"kind": "street_world", "videos": 2, "frames": 4, "size": [64, 128], "seed": 3}
    return tiny_recipe(evaluation={**world, **evaluation})


def segment_all(recipe: Recipe, weights: Path, out: Path, space: LabelSpace | None = None) -> Path:
    """One segmentation folder per evaluation video below ``out``."""
    segmenter = load(weights, device="cpu", space=space)
    videos = evaluation_videos(recipe.evaluation)
    for number, name in enumerate(videos.videos):
        images = [image for image, _, _ in labelled_frames(videos, number)]
        with SegmentationWriter(out / name, segmenter.space, video_name=name, fps=10, overlay=False) as writer:
            for frame, image in zip(segmenter.segment(images), images, strict=True):
                writer.write(frame, image)
    return out


def evaluate(recipe: Recipe, **options: Any) -> Scores:
    """In this process: others take seconds to start."""
    return run_evaluation(recipe, jobs=1, **options)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return scored_recipe()


@pytest.fixture(scope="module")
def by_checkpoint(recipe: Recipe, weights: Path) -> Scores:
    return evaluate(recipe, checkpoint=weights, device="cpu")


@pytest.fixture(scope="module")
def predictions(recipe: Recipe, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return segment_all(recipe, weights, tmp_path_factory.mktemp("predictions"))


def test_folders_score_as_the_checkpoint_that_wrote_them(
    recipe: Recipe, by_checkpoint: Scores, predictions: Path
) -> None:
    by_folder = evaluate(recipe, predictions=predictions)
    first, second = by_checkpoint.to_dict(), by_folder.to_dict()
    assert {name: first[name] for name in PANOPTIC} == {name: second[name] for name in PANOPTIC}
    assert first["aq"] > 0
    for row, other in zip(first["rows"], second["rows"], strict=True):
        assert [row[key] for key in ("pq", "sq", "rq", "vpq")] == [other[key] for key in ("pq", "sq", "rq", "vpq")]
    assert (by_folder.frames, by_folder.videos, by_folder.labelled_frames) == (8, 2, 8)


def test_void_of_a_folder_counts_as_wrong_in_miou(recipe: Recipe, by_checkpoint: Scores, predictions: Path) -> None:
    """A folder keeps no class under void."""
    by_folder = evaluate(recipe, predictions=predictions)
    expected = confusion_iou(recipe, predictions)
    for name, value in zip(CITYSCAPES.names, expected, strict=True):
        assert by_folder.iou[name] == pytest.approx(value, nan_ok=True)
    assert by_folder.miou != by_checkpoint.miou


def confusion_iou(recipe: Recipe, predictions: Path) -> list[float]:
    """IoU per class counted by hand from the pictures."""
    counts = np.zeros((19, 256))
    videos = evaluation_videos(recipe.evaluation)
    for number, name in enumerate(videos.videos):
        for frame, (_, (semantic, _), _) in zip(
            read_segmentation(predictions / name), labelled_frames(videos, number), strict=True
        ):
            np.add.at(counts, (semantic.ravel(), frame.semantic.ravel()), 1)
    hits, labelled, predicted = counts[:, :19].diagonal(), counts.sum(1), counts[:, :19].sum(0)
    union = labelled + predicted - hits
    return [float(h / u) if u else float("nan") for h, u in zip(hits, union, strict=True)]


def test_a_single_video_may_lie_in_the_folder_itself(weights: Path, tmp_path: Path) -> None:
    recipe = scored_recipe(videos=1)
    name = evaluation_videos(recipe.evaluation).videos[0]
    folder = segment_all(recipe, weights, tmp_path) / name
    assert evaluate(recipe, predictions=folder).to_dict() == evaluate(recipe, predictions=tmp_path).to_dict()


def test_scores_are_written_where_asked(recipe: Recipe, predictions: Path, tmp_path: Path) -> None:
    scores = evaluate(recipe, predictions=predictions, out=tmp_path / "new" / "scores.json")
    written = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert written == {"recipe": "tiny", "protocol": "", "scored": str(predictions)} | scores.to_dict()


@pytest.mark.parametrize("option", ["out", "csv", "worst"])
def test_places_that_cannot_be_written_show_before_anything_is_scored(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr(job, "score_predictions", lambda *given, **options: pytest.fail("scored"))
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    for place in ("file/scores", "folder"):
        with pytest.raises(StorageError, match=rf"{place} cannot be written .*; choose another file"):
            evaluate(recipe, predictions=tmp_path, **{option: tmp_path / place})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_scores_are_shown_before_they_are_written(
    recipe: Recipe, predictions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: Any) -> None:
        raise StorageError("disk full")

    monkeypatch.setattr(job, "write_json", full)
    shown: list[Scores] = []
    with pytest.raises(StorageError, match="disk full"):
        evaluate(recipe, predictions=predictions, out=tmp_path / "scores.json", show=shown.append)
    assert len(shown) == 1
    assert shown[0].frames == 8


def test_which_weights_were_scored_is_written(recipe: Recipe, weights: Path, tmp_path: Path) -> None:
    for name in ("student", "teacher"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / f"{name}.safetensors").write_bytes(weights.read_bytes())
    for given, expected in ((None, "student"), ("teacher", "teacher")):
        out = tmp_path / "scores.json"
        evaluate(recipe, checkpoint=tmp_path / "run", weights=given, device="cpu", out=out)
        written = json.loads(out.read_text())
        assert (written["scored"], written["weights"]) == (str(tmp_path / "run"), expected)
    evaluate(recipe, checkpoint=weights, device="cpu", out=out)
    assert "weights" not in json.loads(out.read_text()), "a file alone does not say"


# --- wrong input


def test_missing_frames_and_videos_are_named(recipe: Recipe, predictions: Path, weights: Path, tmp_path: Path) -> None:
    first, second = evaluation_videos(recipe.evaluation).videos
    short = scored_recipe(frames=3)
    segment_all(short, weights, tmp_path / "short")
    with pytest.raises(
        InputError, match=rf"2 frames have no prediction in .*: '{first}/000003', '{second}/000003'; seg"
    ):
        evaluate(recipe, predictions=tmp_path / "short")
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / first).symlink_to(tmp_path / "short" / first)
    (tmp_path / "mixed" / second).symlink_to(predictions / second)
    with pytest.raises(InputError, match=rf"{first} has no prediction for frame 3 \({first}/000003\); segment all"):
        evaluate(recipe, predictions=tmp_path / "mixed")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / first).symlink_to(predictions / first)
    with pytest.raises(InputError, match=rf"no segmentation of video '{second}': .* name folders after the videos"):
        evaluate(recipe, predictions=tmp_path / "one")
    with pytest.raises(InputError, match="no segmentation of 2 videos"):
        evaluate(recipe, predictions=predictions / first)
    with pytest.raises(InputError, match=r"no predictions at .*nowhere; give a folder of segmentation folders"):
        evaluate(recipe, predictions=tmp_path / "nowhere")


def test_further_frames_do_no_harm(predictions: Path, weights: Path, tmp_path: Path) -> None:
    """Every second frame is labelled: predictions of the others are passed over."""
    recipe = scored_recipe(frames=3)
    longer = evaluate(recipe, predictions=predictions)
    segment_all(recipe, weights, tmp_path)
    exact = evaluate(recipe, predictions=tmp_path)
    assert longer.to_dict() == exact.to_dict()


def test_a_folder_that_is_no_segmentation(recipe: Recipe, tmp_path: Path) -> None:
    for name in evaluation_videos(recipe.evaluation).videos:
        (tmp_path / name).mkdir()
        (tmp_path / name / "panoptic.json").write_text('{"annotations": []}')
    with pytest.raises(InputError, match=r"is not a panoptic\.json of a segmentation folder"):
        evaluate(recipe, predictions=tmp_path)


def test_pictures_of_another_size(recipe: Recipe, predictions: Path) -> None:
    larger = scored_recipe(size=[64, 160])
    message = r"frame 0 of .*/source-003-000 is 128x64, but source-003-000/000000 is scored at 160x64"
    with pytest.raises(InputError, match=message):
        evaluate(larger, predictions=predictions)


def test_exactly_one_thing_is_scored(recipe: Recipe, weights: Path, tmp_path: Path) -> None:
    for options in ({}, {"checkpoint": weights, "predictions": tmp_path}):
        with pytest.raises(ConfigError, match="exactly one of --checkpoint and --predictions"):
            evaluate(recipe, **options)
    with pytest.raises(ConfigError, match="has no evaluation videos"):
        evaluate(recipe.model_copy(update={"evaluation": None}), checkpoint=weights)
    with pytest.raises(UserError, match="device 'tpu'"):
        evaluate(recipe, checkpoint=weights, device="tpu")


# --- label spaces


def test_predictions_in_another_space_are_mapped_by_name(weights: Path, tmp_path: Path) -> None:
    """Folders in Cityscapes classes, labels in CamVid's: classes are joined, not taken by number."""
    recipe = tiny_recipe(
        evaluation={"kind": "camvid", "root": str(write_camvid(tmp_path / "camvid")), "split": "val"},
        scoring={"labels": "camvid"},
    )
    folder = segment_all(recipe, weights, tmp_path / "own") / "0016E5"
    scores = evaluate(recipe, predictions=folder)
    assert scores.label_space == "camvid"
    assert scores.pq is None
    table = CITYSCAPES.map_to(CAMVID, CITYSCAPES_TO_CAMVID)
    videos = evaluation_videos(recipe.evaluation)
    pixels = []
    for frame, (_, (semantic, _), _) in zip(read_segmentation(folder), labelled_frames(videos, 0), strict=True):
        known = semantic < 11
        pixels.append((semantic[known], table[frame.semantic][known]))
    label, found = (np.concatenate(part) for part in zip(*pixels, strict=True))
    for index, name in enumerate(CAMVID.names):
        union = ((label == index) | (found == index)).sum()
        expected = ((label == index) & (found == index)).sum() / union if union else np.nan
        assert scores.iou[name] == pytest.approx(expected, nan_ok=True)


def test_a_checkpoint_answers_in_the_space_of_the_labels(weights: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        evaluation={"kind": "camvid", "root": str(write_camvid(tmp_path / "camvid")), "split": "val"},
        scoring={"labels": "camvid"},
    )
    scores = evaluate(recipe, checkpoint=weights, device="cpu")
    assert (scores.label_space, scores.frames, scores.videos) == ("camvid", 4, 1)
    assert scores.flicker is not None
    segment_all(recipe, weights, tmp_path / "mapped", CAMVID)
    assert evaluate(recipe, predictions=tmp_path / "mapped").label_space == "camvid"


def test_folders_in_different_spaces(recipe: Recipe, predictions: Path, weights: Path, tmp_path: Path) -> None:
    first, second = evaluation_videos(recipe.evaluation).videos
    segment_all(scored_recipe(), weights, tmp_path, CAMVID)
    for path in sorted((tmp_path / first).rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (tmp_path / first).rmdir()
    (tmp_path / first).symlink_to(predictions / first)
    assert (tmp_path / second).is_dir()
    with pytest.raises(InputError, match="have different classes"):
        evaluate(recipe, predictions=tmp_path)


# --- frames with labels


def test_generated_frames_come_with_exact_flow() -> None:
    videos = evaluation_videos(scored_recipe().evaluation)
    frames = list(labelled_frames(videos, 1))
    clip = videos.video_clip(1)
    assert len(frames) == 4
    flow, valid = videos.exact_flow(1)
    for index, (image, (semantic, instance), known) in enumerate(frames):
        np.testing.assert_array_equal(image, clip.frames[index].permute(1, 2, 0))
        assert image.flags.c_contiguous
        np.testing.assert_array_equal(semantic, clip.target.semantic[index])
        np.testing.assert_array_equal(instance, clip.target.instance[index])
        if index == 0:
            assert known is None
        else:
            np.testing.assert_array_equal(known[0], flow[index - 1])
            np.testing.assert_array_equal(known[1], valid[index - 1])


def test_stored_frames_come_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(evaluation={"kind": "camvid", "root": str(write_camvid(tmp_path)), "split": "val"})
    videos = evaluation_videos(recipe.evaluation)
    monkeypatch.setattr(type(videos), "video_clip", lambda *_: pytest.fail("the whole video was read"))
    frames = list(labelled_frames(videos, 0))
    assert len(frames) == 4
    for image, (semantic, instance), flow in frames:
        assert image.shape == (48, 64, 3)
        assert semantic.shape == (48, 64)
        assert instance is None
        assert flow is None


def test_unlabelled_footage_cannot_be_scored(weights: Path, tmp_path: Path) -> None:
    folder = write_images(moving_frames(2), tmp_path / "frames")
    recipe = tiny_recipe(evaluation={"kind": "videos", "root": str(folder)})
    with pytest.raises(ConfigError, match="is unlabelled footage"):
        evaluate(recipe, checkpoint=weights)


@pytest.mark.parametrize("relabelled", [False, True])
def test_frame_names_are_unique_in_the_data(tmp_path: Path, relabelled: bool) -> None:
    """Average precision joins frames by their names, so two videos may not share one."""
    space = CAMVID if relabelled else None
    world = evaluation_videos(scored_recipe().evaluation, space)
    names = [frame_name(world, number, position) for number in range(2) for position in range(4)]
    assert names[:2] == ["source-003-000/000000", "source-003-000/000001"]
    assert len(set(names)) == 8
    recipe = tiny_recipe(evaluation={"kind": "camvid", "root": str(write_camvid(tmp_path)), "split": "val"})
    stored = evaluation_videos(recipe.evaluation, CITYSCAPES if relabelled else None)
    assert len({frame_name(stored, 0, position) for position in range(4)}) == 4


def test_missing_data_show_before_the_network_is_loaded(tmp_path: Path) -> None:
    recipe = tiny_recipe(evaluation={"kind": "camvid", "root": str(tmp_path / "nowhere"), "split": "val"})
    with pytest.raises(InputError, match=r"no data at .*nowhere"):
        evaluate(recipe, checkpoint=tmp_path / "no.safetensors", device="cpu")


def test_generated_footage_is_known_as_such(recipe: Recipe) -> None:
    assert is_generated(recipe.evaluation)
    assert not is_generated(None)

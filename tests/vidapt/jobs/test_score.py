"""Scores of predictions of other programs: exact to the official scorer, and the same however the work is shared."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.datasets.miniature import cityscapes_sequence, synthia_seq
from tests.tiny_runs import tiny_recipe
from tests.vidapt.jobs.prediction_files import (
    CVRN,
    STILLS,
    UNSCORED,
    Picture,
    edit,
    official_files,
    official_score,
    read_categories,
    read_pictures,
    recipe_for,
    stills_root,
    videos_root,
    write_pictures,
)
from vidapt.clip import PanopticFrame, Segment
from vidapt.config import Recipe
from vidapt.datasets import stored
from vidapt.datasets.cityscapes_sequence import CityscapesSequence
from vidapt.errors import InputError
from vidapt.evaluation.instance_cityscapes import step_precision
from vidapt.evaluation.scores import Scores
from vidapt.io.writer import SegmentationWriter
from vidapt.jobs import score as job
from vidapt.jobs.data_convert import convert
from vidapt.jobs.score import lost_pixels, score_predictions, score_segmenter
from vidapt.jobs.scored_videos import frame_names, labelled_frames, scored_videos
from vidapt.labels import CITYSCAPES
from vidapt.mapping import find_mapping
from vidapt.recipe import load_recipe
from vidapt.segmenter import load

REAL = Path(__file__).parents[4] / "shared" / "data"
VPS = "benchmarks/viper_to_cityscapes_vps"
PART = ("pq", "sq", "rq")
ROAD, SKY, BUS = 7, 23, 28
"""Label ids of Cityscapes."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stills_root(tmp_path_factory.mktemp("stills"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return videos_root(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def official(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official panoptic files of the ground truth, with label ids."""
    pytest.importorskip("cityscapesscripts")
    return official_files(root, tmp_path_factory.mktemp("official"))


def scores_of(predictions: Path, recipe: Recipe, *, worst: int = 0) -> Scores:
    return score_predictions(predictions, recipe, jobs=1, worst=worst).scores


def rate_all(document: dict[str, Any]) -> None:
    """Give every segment a score, which truth files have none of."""
    for record in document["annotations"]:
        for segment in record["segments_info"]:
            segment["score"] = 1.0


def assert_perfect(scores: Scores, classes: int) -> None:
    """Every mean is 1 and every class that occurs has 1 in all that is defined of it."""
    data = scores.to_dict()
    means = ("miou", "pq", "sq", "rq", "pq_dagger", "pq_things", "pq_stuff", "stq", "aq", "stq_sq", "vpq")
    assert {name: data[name] for name in means} == dict.fromkeys(means, 1)
    for name, counts in scores.panoptic.per_class.items():
        assert (counts.fp, counts.fn) == (0, 0), name
    values = [row[key] for row in data["rows"] for key in row if key not in ("class", "kind", "scored")]
    assert set(values) <= {1, None}
    assert len(data["averaged"]["miou"]) == len(data["averaged"]["vpq_1"]) == classes


# --- the ground truth as a prediction


@pytest.mark.parametrize("labels", [None, "cityscapes"])
def test_converted_ground_truth_is_perfect(root: Path, tmp_path: Path, labels: str | None) -> None:
    """Group regions, void, caravans and trailers are all there and cost nothing."""
    recipe = recipe_for(STILLS, root)
    convert(recipe.evaluation, out=tmp_path, labels=labels, jobs=1)
    edit(tmp_path / "val.json", rate_all)
    scores = scores_of(tmp_path, recipe)
    assert_perfect(scores, 16)
    assert (scores.frames, scores.labelled_frames, scores.videos) == (3, 3, 3)
    assert scores.ap_cityscapes == 1
    assert {"person", "car", "bus"} <= set(scores.averaged["ap_cityscapes"])
    crowds = [s for picture in read_pictures(tmp_path / "val.json") for s in picture.segments if s["iscrowd"]]
    assert crowds, "no group region was predicted"


@pytest.mark.parametrize("train_ids", [False, True])
def test_files_of_the_official_converter_score_the_same(root: Path, tmp_path: Path, train_ids: bool) -> None:
    """Label ids or train ids as categories, ``_gtFine_panoptic`` names, segment ids of instanceIds pictures."""
    pytest.importorskip("cityscapesscripts")
    recipe = recipe_for(STILLS, root, "scoring.metrics=[ap_cityscapes, ap_coco, instance_weighted, boundary]")
    convert(recipe.evaluation, out=tmp_path / "ours", jobs=1)
    file = official_files(root, tmp_path / "official", train_ids=train_ids)
    for written in (file, tmp_path / "ours" / "val.json"):
        edit(written, rate_all)
    ours = scores_of(tmp_path / "ours", recipe)
    assert scores_of(file.parent, recipe).to_dict() == scores_of(file, recipe).to_dict() == ours.to_dict()
    assert ours.boundary_pq == ours.ap_coco == 1
    assert ours.iiou == pytest.approx(1, abs=1e-12)


def test_void_and_group_regions_cost_no_quality(root: Path, official: Path, tmp_path: Path) -> None:
    """Sky all over the void and no group region predicted: PQ and AP stay 1, only mIoU wants the groups."""
    changed = []
    for picture in read_pictures(official):
        (sky,) = (segment["id"] for segment in picture.segments if segment["category_id"] == SKY)
        over_void = Picture(picture.name, np.where(picture.ids == 0, sky, picture.ids), picture.segments)
        changed.append(over_void.keep(lambda segment: not segment["iscrowd"]))
    file = edit(write_pictures(tmp_path / "val.json", changed, read_categories(official)), rate_all)
    scores = scores_of(file, recipe_for(STILLS, root))
    assert scores.pq == scores.ap_cityscapes == scores.iou["sky"] == 1
    assert scores.miou < 1
    assert official_score(official, file)["All"]["pq"] == 1


# --- the official scorer on wrong predictions


def damaged(kind: str, pictures: list[Picture]) -> list[Picture]:
    """The ground truth made worse; the classes that SYNTHIA lacks become others, as for a network without them."""
    known = {22: 21, 27: 26, 31: 28}
    pictures = [_one_stuff_segment(picture.with_classes(lambda c: known.get(c, c))) for picture in pictures]
    if kind == "shifted":
        return [picture.moved(2, 3) for picture in pictures]
    if kind == "classes swapped":
        swap = {24: 25, 25: 24, 11: 21, 21: 11, 26: 33, 33: 26}
        return [picture.with_classes(lambda c: swap.get(c, c)) for picture in pictures]
    if kind == "segments dropped":
        return [picture.keep(lambda segment: segment["id"] % 3 != 1) for picture in pictures]
    return [picture.moved(number, 5 * number).keep(lambda s: s["id"] % 4) for number, picture in enumerate(pictures)]


def _one_stuff_segment(picture: Picture) -> Picture:
    """Vegetation that was terrain joined with what was vegetation before, as the format asks of stuff."""
    same = [segment["id"] for segment in picture.segments if segment["category_id"] == 21]
    ids = np.where(np.isin(picture.ids, same[1:]), same[0], picture.ids) if same else picture.ids
    return Picture(picture.name, ids, tuple(s for s in picture.segments if s["id"] not in same[1:]))


@pytest.mark.parametrize("kind", ["shifted", "classes swapped", "segments dropped", "shifted and dropped"])
@pytest.mark.parametrize("benchmark", [STILLS, CVRN])
def test_counts_of_the_official_scorer(root: Path, official: Path, tmp_path: Path, benchmark: str, kind: str) -> None:
    """EDAPS scores 19 classes and multiplies by 19/16; CVRN takes three classes' segments out of the truth's JSON."""
    without = UNSCORED if benchmark == CVRN else ()
    file = write_pictures(tmp_path / "val.json", damaged(kind, read_pictures(official)), read_categories(official))
    expected, scores = official_score(official, file, without=without), scores_of(file, recipe_for(benchmark, root))
    for name, quality in scores.panoptic.per_class.items():
        theirs = expected["per_class"][name]
        assert (quality.tp, quality.fp, quality.fn) == (theirs["tp"], theirs["fp"], theirs["fn"]), name
        if quality.tp + quality.fp + quality.fn:
            assert [quality.pq, quality.sq, quality.rq] == pytest.approx([theirs[k] for k in PART], abs=1e-12), name
    factor = 19 / 16 if benchmark == STILLS else 1
    assert expected["All"]["n"] == (19 if benchmark == STILLS else 16)
    ours = [getattr(scores.panoptic.all, key) for key in PART]
    assert ours == pytest.approx([expected["All"][key] * factor for key in PART], abs=1e-12)
    assert 0 < scores.pq < 1
    assert len(scores.averaged["vpq_1"]) == 16


@pytest.mark.parametrize("benchmark", [STILLS, CVRN])
def test_counts_of_the_official_scorer_on_real_pictures(tmp_path: Path, benchmark: str) -> None:
    """Three images of Cityscapes; some of the segments are void, the others shifted by a few pixels."""
    if not (REAL / "cityscapes").is_dir():
        pytest.skip(f"no real Cityscapes images at {REAL / 'cityscapes'}")
    pytest.importorskip("cityscapesscripts")
    truth = official_files(REAL, tmp_path / "official", split="train")
    recipe = recipe_for(benchmark, REAL, "evaluation.split=train")
    assert scores_of(truth, recipe).pq == 1
    pictures = [picture.moved(4, 3).keep(lambda s: s["id"] % 9 != 3) for picture in read_pictures(truth)]
    file = write_pictures(tmp_path / "val.json", [visible(picture) for picture in pictures], read_categories(truth))
    expected = official_score(truth, file, without=UNSCORED if benchmark == CVRN else ())["per_class"]
    counted = scores_of(file, recipe).panoptic.per_class
    for name, quality in counted.items():
        theirs = expected[name]
        assert (quality.tp, quality.fp, quality.fn) == (theirs["tp"], theirs["fp"], theirs["fn"]), name
        if quality.tp + quality.fp + quality.fn:
            assert quality.pq == pytest.approx(theirs["pq"], abs=1e-12), name
    assert min(sum(getattr(found, kind) for found in counted.values()) for kind in ("tp", "fp", "fn")) > 0


def visible(picture: Picture) -> Picture:
    """Without segments that have no pixel left, which the official scorer refuses."""
    return picture.keep(lambda segment: bool((picture.ids == segment["id"]).any()))


def test_the_two_conventions_differ_in_miou(root: Path, official: Path, tmp_path: Path) -> None:
    """Pixels of terrain, truck and train that are called something else are wrong, or ignored."""
    file = write_pictures(tmp_path / "val.json", damaged("", read_pictures(official)), read_categories(official))
    counted, ignored = (scores_of(file, recipe_for(name, root)) for name in (STILLS, CVRN))
    assert counted.pq == ignored.pq
    assert counted.iou["vegetation"] < ignored.iou["vegetation"]
    assert counted.iou["sky"] == ignored.iou["sky"]
    assert counted.miou < ignored.miou


@pytest.mark.parametrize("score", [0.9, 0.5, 0.2])
def test_scores_rank_the_predictions_of_average_precision(
    root: Path, official: Path, tmp_path: Path, score: float
) -> None:
    """Roads called buses with a score of 0.5 are false alarms after, beside or before the true buses."""
    changed, true, false = [], 0, 0
    for picture in read_pictures(official):
        items = [{**item, "score": score} for item in picture.segments]
        buses = sum(item["category_id"] == BUS for item in items)
        true += buses
        for item in items:
            if not buses and item["category_id"] == ROAD:
                item.update(category_id=BUS, score=0.5)
                false += 1
        changed.append(Picture(picture.name, picture.ids, tuple(items)))
    file = write_pictures(tmp_path / "val.json", changed, read_categories(official))
    row = next(row for row in scores_of(file, recipe_for(STILLS, root)).to_dict()["rows"] if row["class"] == "bus")
    assert true > 0
    assert false == 2
    ranked = np.array([score] * true + [0.5] * false), np.array([True] * true + [False] * false)
    assert row["ap_cityscapes"] == pytest.approx(step_precision(*ranked, targets=true), abs=1e-12)
    assert (row["ap_cityscapes"] == 1) == (score > 0.5)


# --- videos


def test_ids_that_stay_are_perfect_and_shuffled_ones_lower_video_scores_only(videos: Path, tmp_path: Path) -> None:
    recipe = recipe_for(VPS, videos, "labels=cityscapes", "scoring.windows=[1, 2, 3, 4]")
    convert(recipe.evaluation, out=tmp_path / "same", jobs=1)
    same = scores_of(tmp_path / "same", recipe)
    assert_perfect(same, len(same.averaged["miou"]))
    assert (same.frames, same.videos, same.id_switches) == (12, 2, 0)
    source = tmp_path / "same" / "val.json"
    pictures = read_pictures(source)
    rng = np.random.default_rng(0)
    shuffled = [shuffle_things(picture, rng) for picture in pictures]
    file = write_pictures(tmp_path / "shuffled" / "val.json", shuffled, read_categories(source))
    lower = scores_of(file, recipe)
    assert (lower.pq, lower.miou, lower.sq, lower.rq) == (1, 1, 1, 1)
    assert lower.vpq < 1
    assert lower.stq < 1
    assert lower.stq_sq == 1
    assert lower.id_switches > 0
    assert lower.mean_vpq(recipe.scoring.windows, "stuff") == 1


def shuffle_things(picture: Picture, rng: np.random.Generator) -> Picture:
    """New ids from 300 on for what has an id from 256 on."""
    things = [segment["id"] for segment in picture.segments if segment["id"] >= 256]
    new = dict(zip(things, (300 + rng.permutation(200)[: len(things)]).tolist(), strict=True))
    return picture.renumbered(lambda own: new.get(own, own))


def test_a_constant_renumbering_of_things_changes_nothing(videos: Path, tmp_path: Path) -> None:
    """Ids below 256 are things too, and so are the largest that a picture can hold."""
    recipe = recipe_for(VPS, videos, "labels=cityscapes")
    convert(recipe.evaluation, out=tmp_path / "same", jobs=1)
    source = tmp_path / "same" / "val.json"
    pictures = read_pictures(source)
    largest = 2**24 - 1
    ids = sorted({segment["id"] for picture in pictures for segment in picture.segments})
    table = {own: place + 1 if place % 2 else largest - place for place, own in enumerate(ids)}
    file = write_pictures(
        tmp_path / "new" / "val.json", [p.renumbered(table.__getitem__) for p in pictures], read_categories(source)
    )
    assert scores_of(file, recipe).to_dict() == scores_of(source, recipe).to_dict()


def test_synthia_sequences_scored_against_themselves(tmp_path: Path) -> None:
    truth = synthia_seq.build(tmp_path / "data")
    data = f"{{kind: synthia_seq, root: {truth.root.parent}}}"
    recipe = load_recipe(STILLS, [f"evaluation={data}", "scoring={classes: null}"])
    convert(recipe.evaluation, out=tmp_path / "predicted", jobs=1)
    scores = scores_of(tmp_path / "predicted", recipe)
    assert_perfect(scores, len(scores.averaged["miou"]))
    assert (scores.frames, scores.videos) == (4, 1)
    assert "car" in scores.averaged["vpq_1"]


def test_predictions_of_unlabelled_frames_count_for_flicker_only(tmp_path: Path) -> None:
    """Snippets with one labelled frame: all frames need a prediction, one is scored."""
    truth = cityscapes_sequence.build(tmp_path / "data", split="val")
    labelled = [key for key, frame in truth.frames.items() if frame.classes is not None]
    recipe = load_recipe(
        "benchmarks/viper_to_cityscapes_sequence", [f"evaluation.root={tmp_path / 'data'}", "labels=cityscapes"]
    )
    pictures = []
    for key, frame in truth.frames.items():
        name = Path(key).name.removesuffix(Path(key).suffix).removesuffix("_leftImg8bit")
        ids = np.full(frame.image.shape[:2], 1)
        ids[:, ::2] += len(pictures) % 2
        items = tuple({"id": n, "category_id": n - 1} for n in np.unique(ids).tolist())
        pictures.append(Picture(name, ids, items))
    categories = [{"id": 0, "name": "road"}, {"id": 1, "name": "sidewalk"}]
    file = write_pictures(tmp_path / "predicted" / "val.json", pictures, categories)
    done = score_predictions(file, recipe, jobs=1, worst=8)
    assert done.scores.labelled_frames == len(labelled)
    assert done.scores.frames == 2 * len(labelled)
    assert done.scores.flicker > 0
    assert done.scores.pq is None
    assert len(done.worst) == len(labelled)
    assert {frame.name for frame in done.worst} == {
        Path(key).name.removesuffix(Path(key).suffix).removesuffix("_leftImg8bit") for key in labelled
    }
    assert {frame.metric for frame in done.worst} == {"mIoU"}


# --- sharing the work


def plain(scores: Scores) -> str:
    return json.dumps(scores.to_dict())


@pytest.mark.timeout(600)
def test_number_of_processes_changes_nothing(root: Path, official: Path, tmp_path: Path) -> None:
    recipe = recipe_for(STILLS, root, "scoring.metrics=[ap_cityscapes, ap_coco, boundary, instance_weighted]")
    file = write_pictures(tmp_path / "val.json", damaged("shifted", read_pictures(official)), read_categories(official))
    one, two, three = (score_predictions(file, recipe, jobs=jobs, worst=2) for jobs in (1, 2, 3))
    assert plain(one.scores) == plain(two.scores) == plain(three.scores)
    assert [frame.name for frame in one.worst] == [frame.name for frame in two.worst]
    for frames in (two.worst, three.worst):
        for own, other in zip(one.worst, frames, strict=True):
            for panel, same in zip(own.panels, other.panels, strict=True):
                np.testing.assert_array_equal(panel, same)


class Ranks:
    """Stands in for torchrun: the ranks run one after the other, the first one last, which gets all shares."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, world: int) -> None:
        self.world, self.rank, self.shares = world, 0, {}
        monkeypatch.setattr(job, "world_size", lambda: world)
        monkeypatch.setattr(job, "rank", lambda: self.rank)
        monkeypatch.setattr(job, "gather_objects", self._gather)

    def _gather(self, share: Any) -> list[Any]:
        self.shares[self.rank] = share
        if len(self.shares) < self.world:
            raise _SharesMissingError
        return [self.shares[rank] for rank in range(self.world)]

    def run(self, call: Any) -> Any:
        for rank in reversed(range(self.world)):
            self.rank = rank
            try:
                return call()
            except _SharesMissingError:
                continue
        raise AssertionError("the first rank did not gather")


class _SharesMissingError(Exception):
    pass


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_of_torchrun_give_the_scores_of_one(
    root: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, world: int
) -> None:
    """Three stills over two to four ranks, of which the last has nothing to do."""
    recipe = recipe_for(STILLS, root, "inference.height=null")
    segmenter = load(weights, device="cpu")
    alone = score_segmenter(segmenter, recipe, worst=2)
    shared = Ranks(monkeypatch, world).run(lambda: score_segmenter(segmenter, recipe, worst=2, spread=True))
    assert plain(shared.scores) == plain(alone.scores)
    assert [frame.name for frame in shared.worst] == [frame.name for frame in alone.worst]


def test_shares_are_joined_in_the_order_of_the_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of floats depend on their order."""
    monkeypatch.setattr(job, "scored_videos", lambda recipe: SimpleNamespace(videos=list("abcde")))
    monkeypatch.setattr(job, "_segment_videos", lambda *given: (job._Scored(number, ()) for number in given[3]))
    monkeypatch.setattr(job, "_joined", lambda recipe, parts, worst: [part.evaluator for part in parts])
    joined = Ranks(monkeypatch, 2).run(lambda: score_segmenter(None, tiny_recipe(), spread=True))
    assert joined == [0, 1, 2, 3, 4]


def test_without_sharing_other_processes_are_not_asked(
    root: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training scores on its main process only."""
    monkeypatch.setattr(job, "world_size", lambda: 2)
    monkeypatch.setattr(job, "gather_objects", lambda value: pytest.fail("waited for the others"))
    scores = score_segmenter(load(weights, device="cpu"), recipe_for(STILLS, root, "inference.height=null")).scores
    assert scores.videos == 3


# --- what predictions lack


def test_pixels_of_classes_without_a_counterpart_are_told(
    root: Path, official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class that another program calls by another name."""
    categories = [
        {**item, "name": {"car": "motor-car", "road": "carriage"}.get(item["name"], item["name"])}
        for item in read_categories(official)
    ]
    pictures = read_pictures(official)
    lost = {
        category: sum(
            int(np.isin(p.ids, [s["id"] for s in p.segments if s["category_id"] == category]).sum()) for p in pictures
        )
        for category in (26, ROAD)
    }
    assert min(lost.values()) > 0
    file = write_pictures(tmp_path / "val.json", pictures, categories)
    for jobs in (1, 2):
        score_predictions(file, recipe_for(STILLS, root), jobs=jobs)
        told = capsys.readouterr().err
        assert "predicted classes without a counterpart in cityscapes, scored as void: " in told
        assert f"motor-car ({lost[26]} pixels)" in told
        assert f"carriage ({lost[ROAD]} pixels)" in told
        assert "banana" not in told


def test_ids_of_another_space_are_refused_or_told(
    root: Path, official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A JSON without categories: the ids are taken for label ids, of which 0..3 are void."""
    recipe, pictures = recipe_for(STILLS, root), read_pictures(official)
    void = [picture.with_classes(lambda category: category % 4) for picture in pictures]
    with pytest.raises(
        InputError, match=r"val\.json: no segment has a class that is scored; without 'categories' the ids"
    ):
        scores_of(write_pictures(tmp_path / "void" / "val.json", void, None), recipe)
    some = [picture.with_classes(lambda category: 26 if category == 26 else 0) for picture in pictures]
    scores_of(write_pictures(tmp_path / "some" / "val.json", some, None), recipe)
    assert "% of the predicted pixels are void or of no scored class; check the categories" in capsys.readouterr().err
    scores_of(write_pictures(tmp_path / "right" / "val.json", pictures, None), recipe)
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(("void", "lines"), [(50, 0), (51, 1)])
def test_what_is_said_about_lost_pixels(void: int, lines: int) -> None:
    pixels = np.zeros(256, np.int64)
    pixels[[0, 255]] = 100 - void, void
    said = lost_pixels(find_mapping(CITYSCAPES, CITYSCAPES), pixels, [0, 1])
    assert len(said) == lines
    assert all("51 % of the predicted pixels" in line for line in said)
    assert lost_pixels(find_mapping(CITYSCAPES, CITYSCAPES), np.zeros(256, np.int64), [0]) == []


# --- flow and pictures


def test_stills_are_scored_without_their_pictures(
    root: Path, official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(STILLS, root, "scoring.metrics=[ap_cityscapes, instance_weighted]")
    expected = score_predictions(official, recipe, jobs=1, worst=1).scores
    monkeypatch.setattr(stored, "read_image", lambda path: pytest.fail(f"decoded {path}"))
    assert plain(scores_of(official, recipe)) == plain(expected)


def test_flow_can_be_left_out(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_for(VPS, videos, "labels=cityscapes")
    convert(recipe.evaluation, out=tmp_path, jobs=1)
    expected = scores_of(tmp_path, recipe).headline()
    assert expected["flicker"] is not None
    monkeypatch.setattr(stored, "read_image", lambda path: pytest.fail(f"decoded {path}"))
    found = scores_of(tmp_path, recipe_for(VPS, videos, "labels=cityscapes", "scoring.flow=false")).headline()
    assert found == expected | {"flicker": None, "tc": None}


# --- snippets of which only some frames are scored


@pytest.mark.parametrize("kept", ["whole", "read"])
def test_frames_of_snippets_are_found_in_folders_of_either_kind(tmp_path: Path, kept: str) -> None:
    """Context 1: each labelled frame and the one before it, in folders of the whole snippet or of these two."""
    cityscapes_sequence.build(tmp_path / "data", split="val")
    change = [f"evaluation.root={tmp_path / 'data'}", "labels=cityscapes"]
    recipe = load_recipe("benchmarks/viper_to_cityscapes_sequence", change)
    truth = scored_videos(recipe)
    places = []
    for number, video in enumerate(truth.videos):
        read, whole = frame_names(truth, number)
        assert len(read) < len(whole)
        places.append([whole.index(name) for name in read])
        shape = labelled_shape(truth, number)
        with SegmentationWriter(
            tmp_path / "out" / video, CITYSCAPES, video_name=video, fps=17, overlay=False
        ) as writer:
            for index, name in enumerate(whole if kept == "whole" else read):
                category = 10 if name in read else 0
                ids = np.full(shape, category + 1, np.int32)
                segment = Segment(category + 1, category, False, 1.0, ids.size, (0, 0, shape[1], shape[0]))
                frame = PanopticFrame(index, index / 17, (ids - 1).astype(np.uint8), ids, (segment,))
                writer.write(frame, np.zeros((*shape, 3), np.uint8))
    assert any(place != list(range(len(place))) for place in places)
    scores = scores_of(tmp_path / "out", recipe)
    confusion = [row["class"] for row in scores.rows() if row["iou"]]
    assert confusion == ["sky"], "all frames that were read are sky"
    assert scores.flicker == 0


def labelled_shape(truth: Any, number: int) -> tuple[int, int]:
    image = next(labelled_frames(truth, number))[0]
    return image.shape[0], image.shape[1]


def test_frames_left_out_as_damaged_keep_their_place_in_the_recording(tmp_path: Path) -> None:
    cityscapes_sequence.build(tmp_path, split="val")
    dataset = CityscapesSequence(tmp_path, "val", options=stored.ReadOptions(context=2))
    whole, read = frame_names(dataset, 0)[::-1]
    dataset.without([read[0]])
    assert frame_names(dataset, 0) == (read[1:], whole)
    dataset = CityscapesSequence(tmp_path, "val")
    names = dataset.whole_video(0)
    dataset.without([names[3]])
    assert frame_names(dataset, 0) == (names[:3] + names[4:], names)

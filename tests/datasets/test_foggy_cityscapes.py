from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.miniature import foggy_cityscapes
from tests.datasets.reading import check_damaged_files, check_label_of_another_size, check_reading
from vidapt.datasets.cityscapes import Cityscapes
from vidapt.datasets.foggy_cityscapes import BETAS, FoggyCityscapes
from vidapt.datasets.stored import ReadOptions
from vidapt.errors import InputError


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("beta", BETAS)
def test_reads_one_density(tmp_path: Path, split: str, beta: float) -> None:
    truth = foggy_cityscapes.build(tmp_path, split=split)
    ending = f"_foggy_beta_{beta}.png"
    of_beta = [video for video in truth.videos if video[0].endswith(ending)]
    assert len(of_beta) * 3 == len(truth.videos)
    check_reading(FoggyCityscapes(tmp_path, split, beta=beta), replace(truth, videos=of_beta))


def test_densities_differ_and_share_names_and_labels(tmp_path: Path) -> None:
    foggy_cityscapes.build(tmp_path)
    sets = [FoggyCityscapes(tmp_path, beta=beta) for beta in BETAS]
    frames = [next(dataset.frames()) for dataset in sets]
    assert len({frame.image for frame in frames}) == 3
    assert {frame.name for frame in frames} == {"aachen_000000_000019"}
    assert len({frame.labels for frame in frames}) == 1
    pictures = [dataset[0].frames.numpy() for dataset in sets]
    assert not np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[1], pictures[2])


def test_default_density_is_that_of_the_papers(tmp_path: Path) -> None:
    foggy_cityscapes.build(tmp_path)
    assert next(FoggyCityscapes(tmp_path).frames()).image.endswith("_foggy_beta_0.02.png")


def test_semantic_labels_alone(tmp_path: Path) -> None:
    truth = foggy_cityscapes.build(tmp_path, betas=("0.02",))
    dataset = FoggyCityscapes(tmp_path, instances=False)
    assert not dataset.has_instances
    check_reading(dataset, truth)


def test_labels_equal_those_of_the_clear_pictures(tmp_path: Path) -> None:
    foggy_cityscapes.build(tmp_path, betas=("0.01",))
    foggy = FoggyCityscapes(tmp_path, beta=0.01)
    for path in list((tmp_path / "leftImg8bit_foggy").rglob("*.png")):
        clear = Path(str(path).replace("_foggy_beta_0.01", "").replace("_foggy", ""))
        clear.parent.mkdir(parents=True, exist_ok=True)
        path.rename(clear)
    labels = [frame.labels for frame in foggy.frames()]
    assert [frame.labels for frame in Cityscapes(tmp_path).frames()] == labels


@pytest.mark.parametrize("beta", [0.0, 0.05, 0.015, 0.1])
def test_unknown_density_is_named(tmp_path: Path, beta: float) -> None:
    with pytest.raises(InputError, match=rf"no beta {beta:g}; allowed: 0\.005, 0\.01, 0\.02"):
        FoggyCityscapes(tmp_path, beta=beta)


def test_missing_density_and_splits_are_named(tmp_path: Path) -> None:
    foggy_cityscapes.build(tmp_path, betas=("0.005",))
    with pytest.raises(InputError, match=r"Foggy Cityscapes split 'train' .* holds no frames; .*\nleftImg8bit_foggy/"):
        FoggyCityscapes(tmp_path)
    with pytest.raises(InputError, match="no split 'fog'; allowed: train, val, test, train_extra"):
        FoggyCityscapes(tmp_path, "fog")
    (tmp_path / "leftImg8bit_foggy/train").rename(tmp_path / "leftImg8bit_foggy/train_extra")
    with pytest.raises(InputError, match="has pictures but no labels"):
        FoggyCityscapes(tmp_path, "train_extra", beta=0.005)
    assert len(FoggyCityscapes(tmp_path, "train_extra", beta=0.005, labelled=False)) == 3


def test_damaged_files_are_named(tmp_path: Path) -> None:
    foggy_cityscapes.build(tmp_path)
    check_damaged_files(FoggyCityscapes(tmp_path))
    check_label_of_another_size(FoggyCityscapes(tmp_path))


def test_options_reach_the_frames(tmp_path: Path) -> None:
    foggy_cityscapes.build(tmp_path)
    clip = FoggyCityscapes(tmp_path, beta=0.005, options=ReadOptions(fit=(24, 24)), labelled=False)[-1]
    assert clip.frames.shape == (1, 3, 12, 24)
    assert clip.target is None

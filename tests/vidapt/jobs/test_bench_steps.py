"""Training steps and segmentation as `vidapt bench gpu` measures them, in miniature."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vidapt.errors import VidaptError
from vidapt.jobs import bench_training
from vidapt.jobs.bench_inference import FRAME_SIZES, InferenceCase, inference_cases, measure_inference, street_frames
from vidapt.jobs.bench_training import TrainingCase, measure_training, training_cases, training_recipe
from vidapt.kernels.bench.names import is_ours

CPU = torch.device("cpu")


def test_every_recipe_is_measured_at_both_sizes_and_precisions() -> None:
    cases = training_cases(quick=False)
    assert len(cases) == 20
    assert next(iter(cases)) == "mit_b5-512x512-edaps-bf16"
    for case in cases.values():
        recipe = training_recipe(case)
        assert recipe.training.crop == case.size
        assert recipe.training.clip_length == 2
        assert recipe.training.precision == case.precision
        assert recipe.model.encoder.name == case.encoder
        assert recipe.model.encoder.pretrained is False


def test_a_student_of_single_frames_sees_as_many_as_the_others() -> None:
    clips = {
        name: training_recipe(TrainingCase("mit_b2", (256, 512), name, "bf16")).training.batch
        for name in ("edaps", "vidapt")
    }
    assert clips == {"edaps": 1, "vidapt": 2}


@pytest.mark.parametrize("case", training_cases(quick=True).values(), ids=lambda case: case.name)
def test_training_steps(case: TrainingCase, tmp_path: Path) -> None:
    found = measure_training(case, device=CPU, weights=tmp_path, quick=True)
    assert 0 < found["slowest"] <= found["steps_per_second"] <= found["fastest"]
    assert (found["instances"] is None) == (case.recipe == "source_only")
    assert (found["peak_mib"], found["host_syncs"], found["kernel_share"]) == (None, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["test_byobnet-64x128-center_offset.safetensors"]


def test_nothing_is_timed_that_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_training.Update, "reduce", lambda self: torch.tensor(float("nan")))
    case = TrainingCase("test_byobnet", (64, 128), "source_only", "fp32")
    with pytest.raises(VidaptError, match="a loss or gradient is not finite; no speed is shown"):
        measure_training(case, device=CPU, weights=tmp_path, quick=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("sum_rows", True),
        ("paste_kernel", True),
        ("sum_gradients_0d1d2de3de", True),
        ("sum", False),
        ("ampere_bf16_s16816gemm", False),
        ("triton_poi_fused_add_0", False),
    ],
)
def test_our_kernels_are_told_by_name(name: str, ours: bool) -> None:
    pytest.importorskip("triton")
    assert is_ours(name) == ours


def test_the_first_case_of_segmentation_has_the_target() -> None:
    names = list(inference_cases(quick=False))
    first = "mit_b2-512x1024-center_offset"
    assert names[:3] == [f"{first}-bf16", f"{first}-bf16-compiled", f"{first}-fp32"]
    assert len(names) == len(set(names)) == 2 * 2 * 2 * 2 + 1
    assert {case.size for case in inference_cases(quick=False).values()} == set(FRAME_SIZES)


def test_frames_of_any_size() -> None:
    frames = street_frames((64, 128), 3)
    assert [(frame.shape, frame.dtype) for frame in frames] == [((64, 128, 3), np.uint8)] * 3
    assert (frames[0] != frames[1]).any()


def test_segmentation(tmp_path: Path) -> None:
    case = InferenceCase("test_byobnet", (64, 128), "center_offset", "fp32")
    found: dict[str, Any] = measure_inference(case, device=CPU, weights=tmp_path, quick=True)
    assert found["weights"] == "random"
    assert list(found["batches"]) == ["4", "1"]
    for run in found["batches"].values():
        assert run["frames_per_second"] == pytest.approx(1000 / run["wall_ms"])
        assert run["network_ms"] > 0
        assert run["peak_mib"] is None
    measure_training(
        TrainingCase("test_byobnet", (64, 128), "vidapt", "fp32"), device=CPU, weights=tmp_path, quick=True
    )
    assert measure_inference(case, device=CPU, weights=tmp_path, quick=True)["weights"] == "trained briefly"

"""The table over several runs: means, standard errors, gains and the closed gap by hand."""

import json

import pytest

from vidapt.errors import InputError
from vidapt.jobs.summary import summarise


def write_run(folder, source, adapted, upper, generated=True, pq=0.1):
    folder.mkdir()
    stages = {
        name: {"miou": value, "pq": pq, "vpq": pq, "stq": pq, "flicker": 0.05}
        for name, value in (("source_only", source), ("upper_bound", upper), ("adapted", adapted))
    }
    (folder / "comparison.json").write_text(json.dumps({"generated_test_bed": generated, "stages": stages}))
    return folder


def test_mean_standard_error_and_gap(tmp_path):
    runs = [write_run(tmp_path / "a", 0.30, 0.40, 0.50), write_run(tmp_path / "b", 0.32, 0.46, 0.50)]
    summary = summarise(runs)
    assert summary.rows[0][:2] == ("source only", "31.0 ± 1.0")
    assert summary.rows[2][:2] == ("adapted", "43.0 ± 3.0")
    assert summary.gains[0] == "+12.0 ± 2.0"
    assert summary.gap_closed == pytest.approx(12 / 19)
    text = summary.markdown()
    assert "not a benchmark" in text
    assert "63 %" in text


def test_one_run_has_no_spread_and_real_data_no_label(tmp_path):
    text = summarise([write_run(tmp_path / "a", 0.3, 0.4, 0.5, generated=False)]).markdown()
    assert "±" not in text.split("In percent")[0]
    assert "not a benchmark" not in text


def test_missing_scores_are_dashes(tmp_path):
    summary = summarise([write_run(tmp_path / "a", 0.3, 0.4, 0.5, pq=None)])
    assert summary.rows[0][2] == "-"


def test_no_gap_is_not_divided(tmp_path):
    assert summarise([write_run(tmp_path / "a", 0.5, 0.4, 0.5)]).gap_closed is None


def test_folder_without_comparison_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"comparison\.json"):
        summarise([tmp_path])


@pytest.mark.parametrize("text", ["{", "[]", '{"stages": {}}'])
def test_damaged_comparison_is_refused(tmp_path, text):
    (tmp_path / "comparison.json").write_text(text)
    with pytest.raises(InputError, match="damaged"):
        summarise([tmp_path])


def test_unlike_runs_are_refused(tmp_path):
    first = write_run(tmp_path / "a", 0.3, 0.4, 0.5)
    other = tmp_path / "b"
    other.mkdir()
    (other / "comparison.json").write_text(json.dumps({"generated_test_bed": True, "stages": {"adapted": {}}}))
    with pytest.raises(InputError, match="like runs"):
        summarise([first, other])

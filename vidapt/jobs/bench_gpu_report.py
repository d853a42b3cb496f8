"""``report.md`` of `vidapt bench gpu`: what was measured beside what was aimed at, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidapt.jobs.bench_gpu_files import Items, Plan, is_right, read_items
from vidapt.jobs.bench_stage import Target
from vidapt.jobs.files import write_json, write_text
from vidapt.kernels.bench.report import SCHEMA
from vidapt.kernels.bench.targets import targets as kernel_targets

TRAINED = "mit_b5-512x512-edaps-bf16"
SEGMENTED = "mit_b2-512x1024-center_offset-bf16"
STEPS_PER_SECOND, KERNEL_SHARE, FRAMES_PER_SECOND, WALL_OVER_NETWORK = 7.0, 8.0, 30.0, 1.15
MINIATURE = "In miniature on a CPU: that it runs is all that this shows; no figure here says anything about a GPU."


def write_gpu_report(plan: Plan, expected: Mapping[str, Sequence[str]]) -> Path:
    """Write ``report.md``, ``targets.json`` and, as `vidapt bench kernels`, ``kernels.json``; returns the first."""
    found = read_items(plan.out)
    path = plan.out / "report.md"
    for section in ("kernels", "tuned"):
        if items := [item for item in found.get(section, {}).values() if item["status"] == "ok"]:
            finished = {item["item"] for item in items} >= set(expected.get(section, ()))
            head = {
                "schema": SCHEMA,
                "finished": finished,
                "quick": plan.quick,
                "environment": items[-1]["environment"],
            }
            write_json(plan.out / f"{section}.json", {**head, "rows": [item["data"] for item in items]})
    judged = [] if plan.quick else judge(found)
    write_json(plan.out / "targets.json", judged)
    write_text(path, "\n".join([*_lines(plan, found, judged), *_missing(found, expected)]) + "\n")
    return path


def wrong_results(out: Path) -> list[str]:
    """Checks that did not pass and rows whose gate was red, also where the GPU or the process gave up on them."""
    return [
        f"{section} {name}"
        for section, items in read_items(out).items()
        if section in ("correctness", "kernels", "tuned")
        for name, item in items.items()
        if item["status"] != "running" and not is_right(item)
    ]


def judge(found: Mapping[str, Items]) -> list[dict[str, Any]]:
    """Every target: ``section``, ``text``, ``value`` (None if not measured), ``limit``, ``at_least``, ``met``."""
    judged = [
        _target_data(section, f"{target.row} {target.text}", target.value, target.limit, target.at_least)
        for section in ("kernels", "tuned")
        for row in _data(found, section)
        for target in kernel_targets(row)
    ]
    return (
        judged
        + list(_training_targets(_named(found, "training")))
        + list(_inference_targets(_named(found, "inference")))
    )


def _training_targets(training: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    rate = training.get(TRAINED, {}).get("steps_per_second")
    yield _target_data("training", f"{TRAINED}, steps per second", rate, STEPS_PER_SECOND, at_least=True)
    for name, data in training.items():
        share = data["kernel_share"]
        if name.endswith("bf16"):
            percent = None if share is None else 100 * share
            yield _target_data("training", f"{name}, % of a step in our kernels", percent, KERNEL_SHARE, at_least=False)


def _inference_targets(inference: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The best of all ways to run the network that has a target, compiled or not."""
    runs = {
        f"{name}, {batch} frames a call": run
        for name in (SEGMENTED, f"{SEGMENTED}-compiled")
        for batch, run in inference.get(name, {}).get("batches", {}).items()
    }
    name = max(runs, key=lambda name: runs[name]["frames_per_second"], default=SEGMENTED)
    rate = ratio = None
    if name in runs:
        rate, ratio = runs[name]["frames_per_second"], runs[name]["wall_ms"] / runs[name]["network_ms"]
    yield _target_data("inference", f"{name}: frames per second", rate, FRAMES_PER_SECOND, at_least=True)
    yield _target_data("inference", f"{name}: wall time over the network's", ratio, WALL_OVER_NETWORK, at_least=False)


def _target_data(section: str, text: str, value: float | None, limit: float, at_least: bool) -> dict[str, Any]:
    met = None if value is None else Target(text, value, limit, at_least).met
    return {"section": section, "text": text, "value": value, "limit": limit, "at_least": at_least, "met": met}


def _data(found: Mapping[str, Items], section: str) -> list[dict[str, Any]]:
    return list(_named(found, section).values())


def _named(found: Mapping[str, Items], section: str) -> dict[str, Any]:
    return {name: item["data"] for name, item in found.get(section, {}).items() if item["status"] == "ok"}


def _lines(plan: Plan, found: Mapping[str, Items], judged: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "# Measured by vidapt bench gpu"
    yield ""
    if plan.quick:
        yield from (MINIATURE, "")
    yield from dict.fromkeys(_environment(item) for items in found.values() for item in items.values())
    yield ""
    yield from _targets(judged)
    yield from _correctness(_data(found, "correctness"))
    yield from _kernels("Kernels", _data(found, "kernels"))
    yield from _kernels("Kernels with the tiles that were found", _data(found, "tuned"))
    yield from _training(_named(found, "training"))
    yield from _inference(_named(found, "inference"))
    for name, data in _named(found, "compare").items():
        yield from ("## Methods", "", f"{name}: [{data['report']}]({data['report']})", "")


def _environment(item: Mapping[str, Any]) -> str:
    known = {name: value for name, value in item["environment"].items() if name != "time" and value is not None}
    return "- " + ", ".join(f"{name} {value}" for name, value in known.items())


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    if not rows:
        return
    yield from (f"## {title}", "")
    yield "| " + " | ".join(head) + " |"
    yield "|" + "|".join("---" if number == 0 else "--:" for number in range(len(head))) + "|"
    yield from ("| " + " | ".join(_text(cell) for cell in row) + " |" for row in rows)
    yield ""


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _targets(judged: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    words = {True: "met", False: "**not met**", None: "not measured"}
    rows = [
        (
            one["text"],
            one["value"],
            f"{'at least' if one['at_least'] else 'at most'} {one['limit']:.3g}",
            words[one["met"]],
        )
        for one in judged
    ]
    yield from _table("Targets", ("target", "measured", "aimed at", ""), rows)


def _correctness(checks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rows = []
    for one in checks:
        worst = one["worst"][0] if one["worst"] else None
        error = "-" if worst is None else f"{_text(worst['error'])} of {_text(worst['allowed'])} ({worst['case']})"
        result = f"skipped: {one['skipped']}" if one["skipped"] else "passed" if one["passed"] else "**FAILED**"
        rows.append((one["name"], one["cases"], error, result))
    yield from _table("Correctness", ("check", "cases", "worst error", "result"), rows)


def _kernels(title: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    cells = []
    for row in rows:
        ours = row["providers"][0]
        mode = row["modes"][-1]
        cost = ours["modes"].get(mode)
        other = next((each for each in row["providers"] if each["name"] == row["baseline"]), {"modes": {}})[
            "modes"
        ].get(mode)
        faster = other["median_ms"] / cost["median_ms"] if cost and other else None
        share = None if cost is None or cost["floor_share"] is None else 100 * cost["floor_share"]
        result = (None,) * 4 if cost is None else (cost["median_ms"], share, cost["extra_mib"], cost["host_syncs"])
        cells.append((row["label"], mode, *result, faster, "ok" if row["status"] == "ok" else "**FAILED**"))
    head = ("row", "mode", "ms", "% of floor", "extra MiB", "waits", "x baseline", "")
    yield from _table(title, head, cells)


def _training(found: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (
            name,
            data["steps_per_second"],
            data["peak_mib"],
            None if data["kernel_share"] is None else 100 * data["kernel_share"],
            data["host_syncs"],
            data["instances"],
            _ratio(found, name),
        )
        for name, data in found.items()
    ]
    head = ("training", "steps/s", "peak MiB", "% our kernels", "waits a step", "pseudo-instances", "bf16 x fp32")
    yield from _table("Training steps", head, rows)


def _ratio(found: Mapping[str, Any], name: str) -> float | None:
    """How many times faster bf16 is than fp32, in the row of bf16."""
    other = found.get(name.removesuffix("bf16") + "fp32") if name.endswith("bf16") else None
    return None if other is None else found[name]["steps_per_second"] / other["steps_per_second"]


def _inference(found: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (
            name,
            batch,
            run["frames_per_second"],
            100 * run["network_ms"] / run["wall_ms"],
            run["peak_mib"],
            data["instances"],
            data["weights"],
        )
        for name, data in found.items()
        for batch, run in sorted(data["batches"].items(), key=lambda pair: int(pair[0]))
    ]
    head = ("segmentation", "batch", "frames/s", "% network", "peak MiB", "things a frame", "weights")
    yield from _table("Segmentation", head, rows)


def _missing(found: Mapping[str, Items], expected: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Items without a figure; those without a file were not begun, or the clock ended them."""
    rows = []
    for section in dict.fromkeys((*expected, *found)):
        items = found.get(section, {})
        for name in dict.fromkeys((*expected.get(section, ()), *items)):
            if items.get(name, {}).get("status") != "ok":
                reason = items.get(name, {}).get("reason")
                rows.append((f"{section} {name}", reason or ("not finished" if name in items else "no time was left")))
    yield from _table("Not measured", ("item", "why"), rows)

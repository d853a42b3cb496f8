"""Files of `vidapt bench gpu`: one small JSON for each item that was measured, so that a later call continues.

``OUT/results/SECTION/ITEM.json`` holds ``section``, ``item``, ``status`` ("running", "ok" or "failed"), ``environment``
(device, versions, commit, command and time of the call), ``written`` (when), ``seconds`` and either ``data`` or
``reason``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vidapt.errors import InputError
from vidapt.jobs.files import write_json

Items = dict[str, dict[str, Any]]
"""Files of a section by the name of the item."""


@dataclass(frozen=True)
class Plan:
    """Where and on what is measured.

    Attributes:
        out: Folder of the results.
        device: ``cuda`` or ``cpu``.
        environment: What the numbers of this call depend on.
    """

    out: Path
    device: str
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def quick(self) -> bool:
        """Whether everything is measured in miniature."""
        return self.device == "cpu"

    @property
    def weights(self) -> Path:
        """Folder of weights that the training section leaves for the others."""
        return self.out / "weights"


def read_items(out: Path) -> dict[str, Items]:
    """All files by section and item, in the order in which they were written.

    Raises:
        InputError: If one is damaged.
    """
    items: list[dict[str, Any]] = []
    for path in (out / "results").glob("*/*.json"):
        try:
            item = json.loads(path.read_text("utf-8"))
            items.append({name: item[name] for name in ("section", "item", "status", "written")} | item)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged ({type(error).__name__}); delete it to measure it again") from error
    found: dict[str, Items] = {}
    for item in sorted(items, key=lambda item: str(item["written"])):
        found.setdefault(item["section"], {})[item["item"]] = item
    return found


def is_right(item: Mapping[str, Any]) -> bool:
    """Whether an item was measured and nothing of it is wrong; if not, it is measured again."""
    data = item.get("data", {})
    return bool(item["status"] == "ok" and data.get("passed", True) and data.get("status", "ok") == "ok")


def section_data(plan: Plan, section: str) -> dict[str, Any]:
    """What was measured in a section, by item; without those that failed."""
    items = read_items(plan.out).get(section, {})
    return {name: item["data"] for name, item in items.items() if item["status"] == "ok"}


def write_item(plan: Plan, section: str, item: str, result: Mapping[str, Any]) -> None:
    """Write the file of an item."""
    head = {"section": section, "item": item, "environment": dict(plan.environment)}
    head["written"] = datetime.now(UTC).isoformat(timespec="microseconds")
    write_json(_path(plan, section, item), {**head, **result})


def forget(plan: Plan, section: str, item: str) -> None:
    """Remove the file of an item."""
    _path(plan, section, item).unlink(missing_ok=True)


def ended(plan: Plan, section: str, item: str) -> bool:
    """Whether an item was measured or failed in this call."""
    known = read_items(plan.out).get(section, {}).get(item)
    return known is not None and known["status"] != "running" and known["environment"] == plan.environment


def _path(plan: Plan, section: str, item: str) -> Path:
    return plan.out / "results" / section / f"{item}.json"

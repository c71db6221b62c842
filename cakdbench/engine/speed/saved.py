"""Measured speeds in the store, for the estimates of later runs on an equal device."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cakdbench.engine.speed.facts import GroupSpeed
from cakdbench.store import write_atomic

FOLDER = "speed"
SAME = ("pair", "recipe", "precision", "image_size", "local_batch", "accumulation", "data", "device", "threads")
GROUP = TypeAdapter(GroupSpeed)
WAYS = ("workers", "compiled", "channels_last")


def save_speed(root: Path, speed: GroupSpeed) -> Path:
    """Write a group's numbers below a store, over those of the same lanes measured in the same way."""
    values = {name: getattr(speed, name) for name in (*SAME, *WAYS)} | {"lanes": [lane.method for lane in speed.lanes]}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
    path = root / FOLDER / f"{digest}.json"
    write_atomic(path, (json.dumps(speed.to_json(), indent=1) + "\n").encode())
    return path


def saved_speeds(root: Path) -> list[dict[str, Any]]:
    """Return the groups that have been measured, as `GroupSpeed.to_json` gives them, the newest last.

    What cannot be read is left out: one command measures it anew.
    """
    groups = []
    for path in (root / FOLDER).glob("*.json"):
        try:
            groups.append(GROUP.validate_json(path.read_bytes()))
        except (OSError, ValidationError):
            continue
    return [group.to_json() for group in sorted(groups, key=lambda group: group.finished)]

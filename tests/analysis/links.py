"""Runs of the demo board, edited into runs of several teachers and of other runs' students."""

import json
from pathlib import Path

from cakdbench.records import Identity, TeacherIdentity
from cakdbench.store import run_key
from tests.results.lab import copy_run, entries


def of(method: str, student: str, recipe: str = "demo") -> dict[int, Path]:
    """The demo entries of a method with its own settings, by seed."""
    found = {}
    for path, content in entries(method).items():
        record = content["record"]
        if (record["identity"]["student"], record["label"], record["recipe_name"]) == (student, method, recipe):
            found[record["identity"]["seed"]] = path
    return found


def record_of(path: Path) -> dict:
    return json.loads(path.read_bytes())["record"]


def taught(store: Path, entry: Path, teachers: list[dict], sources: list[str], standard: bool) -> Path:
    """Copy a run into a store as one of other teachers, which are given as the records that made them."""
    record = record_of(entry)
    weights = [TeacherIdentity(model=t["identity"]["student"], sha256=t["weights_sha256"]) for t in teachers]
    record["identity"]["teacher"] = TeacherIdentity.join(weights).model_dump(mode="json")
    record["teacher"] |= {"source": " + ".join(sources), "standard": standard}
    record["key"] = run_key(Identity.model_validate(record["identity"]))
    edited = store.parent / "edited.json"
    edited.write_text(json.dumps({"record": record}))
    edited.with_suffix(".npy").write_bytes(entry.with_suffix(".npy").read_bytes())
    return copy_run(store, edited)

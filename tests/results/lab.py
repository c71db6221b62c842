"""Results folders and stores made of the committed demo entries."""

import json
import shutil
from pathlib import Path

DEMO = Path(__file__).parents[2] / "leaderboards/results"
LABELS = DEMO.parent / "labels"


def entries(method="*"):
    """The entries of a method as plain JSON, by file."""
    return {path: json.loads(path.read_bytes()) for path in sorted(DEMO.glob(f"{method}/*.json"))}


def copy_results(root, *methods):
    """A results folder with the entries of some methods, and the labels beside it."""
    results = root / "results"
    for method in methods:
        shutil.copytree(DEMO / method, results / method)
    shutil.copytree(LABELS, root / "labels")
    return results


def copy_run(store, entry):
    """A run folder of a store with what an entry holds."""
    content = json.loads(entry.read_bytes())
    folder = store / content["record"]["key"]
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(content["record"]))
    (folder / "identity.json").write_text(json.dumps(content["record"]["identity"]))
    shutil.copy(entry.with_suffix(".npy"), folder / "predictions.npy")
    return folder

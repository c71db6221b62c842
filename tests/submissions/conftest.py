"""A small bundle of real runs, and the tools to forge copies of it."""

import hashlib
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from filelock import FileLock

from cakdbench.engine.harness import Harness
from cakdbench.engine.teachers import Teachers
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import resolve_pairs
from cakdbench.records import Identity
from cakdbench.store import Store, run_key
from cakdbench.submissions.submit import Submitter, find_runs, npy_bytes, submit
from cakdbench.submissions.truth import Truth
from cakdbench.submissions.validate import Report, validate
from cakdbench.train.runtime import Runtime

PAIR = "vit_m>vit_xs@fashion_demo"
SHORT = {"epochs": 1, "image_size": 16, "global_batch": 250, "local_batch": 250}


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Store:
    """Three finished runs: a teacher's training, and a student by itself and by CC; made once for all processes."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base
    with FileLock(shared / "submissions.lock"):
        runs = Store(shared / "submitted_runs")
        settings = Settings(recipe=SHORT | {"epochs": 2}, teacher=SHORT)
        cells = make_plan(["cc"], resolve_pairs(PAIR), [0], settings).cells
        chosen = [cell for cell in cells if cell.method.id != "kd"]
        teachers = Teachers(runs, shared / "teachers", settings)
        AcceleratorState._reset_state()  # whatever ran before in this process
        outcome = Harness(runs, teachers, Runtime(Accelerator(cpu=True))).run(chosen)
    assert not outcome.failed
    return runs


@pytest.fixture(scope="session")
def genuine(store, tmp_path_factory) -> Path:
    """The results folder `submit` makes of the runs; not to be changed."""
    results = tmp_path_factory.mktemp("genuine") / "results"
    done = submit(find_runs(["all"], store), results, Submitter("A. Student"))
    assert len(done.written) == 7 and not [finding for finding in done.findings if finding.refused]
    return results


class Forgery:
    """A copy of the bundle, and ways to change it. `cc` and `scratch` are the student's entries."""

    def __init__(self, genuine: Path, folder: Path):
        shutil.copytree(genuine.parent, folder, dirs_exist_ok=True)
        self.root, self.labels = folder / genuine.name, folder / "labels"

    def path(self, method: str = "cc", student: str = "vit_xs") -> Path:
        return next((self.root / method).glob(f"{method}-{student}-*.json"))

    def text(self, change, method: str = "cc") -> None:
        """Change the text of an entry's file."""
        path = self.path(method)
        before = path.read_text()
        path.write_text(change(before))
        assert path.read_text() != before

    def edit(self, change, method: str = "cc", student: str = "vit_xs", *, copy: bool = False) -> Path:
        """Let `change` edit the entry, a dict, and give it the key and the name that then are its own."""
        path = self.path(method, student)
        entry = json.loads(path.read_text())
        change(entry["record"])
        key = run_key(Identity(**entry["record"]["identity"]))
        entry["record"]["key"] = key
        folder = self.root / entry["record"]["identity"]["method"]["id"]
        folder.mkdir(exist_ok=True)
        predictions = path.with_suffix(".npy").read_bytes()
        if not copy:
            path.unlink()
            path.with_suffix(".npy").unlink()
        (folder / f"{key}.npy").write_bytes(predictions)
        (folder / f"{key}.json").write_text(json.dumps(entry))
        return folder / f"{key}.json"

    def predict(self, classes: np.ndarray | bytes, method: str = "cc", *, hashed: bool = True) -> None:
        """Put other predictions in place, with their hash in the record or not."""
        content = classes if isinstance(classes, bytes) else npy_bytes(classes)
        self.path(method).with_suffix(".npy").write_bytes(content)
        if hashed:
            sha256 = hashlib.sha256(content).hexdigest()
            self.edit(lambda record: record.update(predictions_sha256=sha256), method)

    def validate(self, path: Path | None = None, **arguments) -> Report:
        return validate(path or self.root, Truth(self.labels), now=datetime(2100, 1, 1, tzinfo=UTC), **arguments)

    def refusals(self) -> list[str]:
        return [str(finding) for finding in self.validate().refused]


@pytest.fixture(scope="session")
def make_forgery(genuine):
    """Makes a forgery in a new folder."""
    return lambda folder: Forgery(genuine, folder)


@pytest.fixture
def forgery(make_forgery, tmp_path) -> Forgery:
    return make_forgery(tmp_path / "bundle")

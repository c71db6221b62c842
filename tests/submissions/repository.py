"""A part of the repository's own results, accepted, and the tools to lay forged entries beside them."""

import hashlib
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import cakdbench
from cakdbench.records import Identity
from cakdbench.reports.markdown import board_markdown
from cakdbench.reports.pages import suite_board
from cakdbench.reports.sections import board_of
from cakdbench.results.load import Evidence
from cakdbench.store import run_key
from cakdbench.submissions.bundle import read_bundle
from cakdbench.submissions.status import Verdicts, read_verdicts, write_verdicts
from cakdbench.submissions.submit import npy_bytes
from cakdbench.submissions.truth import Truth
from cakdbench.submissions.validate import Report, validate

SHIPPED = Path(cakdbench.__file__).parents[1] / "leaderboards"
METHODS = ("scratch", "kd", "fbt", "ofa")
NOW = datetime(2100, 1, 1, tzinfo=UTC)


class Repository:
    """A copy of the demo board's results by a few methods, as the repository has them."""

    def __init__(self, folder: Path):
        self.root, self.labels = folder / "results", folder / "labels"
        shutil.copytree(SHIPPED / "labels", self.labels)
        for method in METHODS:
            shutil.copytree(SHIPPED / "results" / method, self.root / method)
        verdicts = read_verdicts(SHIPPED / "results")
        here = {path.stem for path in self.root.glob("*/*.json")}
        kept = tuple(verdict for verdict in verdicts.entries if verdict.key in here)
        write_verdicts(self.root, Verdicts(entries=kept, teachers=verdicts.teachers))
        self.truth = np.load(next(self.labels.glob("fashion_demo-*.npy")))

    def entry(self, method: str, student: str = "vit_xs", seed: int = 0) -> Path:
        return next((self.root / method).glob(f"{method}-{student}-*-s{seed}-*.json"))

    def forge(
        self,
        change: Callable[[dict[str, Any]], object],
        method: str = "kd",
        student: str = "vit_xs",
        seed: int = 0,
        accuracy: float | None = 60.0,
        folder: str | None = None,
        blind: bool = False,
    ) -> str:
        """Lay a changed copy of an entry beside the others, under the key that is its own; return its file.

        Args:
            accuracy: of invented predictions, in percent, and of the record; None keeps both.
            folder: of its method, if another.
            blind: the invented errors are on any images, and not on those that are hard for the student.
        """
        path = self.entry(method, student, seed)
        entry = json.loads(path.read_text())
        record, predictions = entry["record"], path.with_suffix(".npy").read_bytes()
        if accuracy is not None:
            hard = np.load(path.with_suffix(".npy")) != self.truth
            predictions = self.invent(record, accuracy, np.zeros_like(hard) if blind else hard)
        change(record)
        record["key"] = run_key(Identity(**record["identity"]))
        target = self.root / (folder or record["identity"]["method"]["id"]) / f"{record['key']}.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(entry))
        target.with_suffix(".npy").write_bytes(predictions)
        return f"{target.parent.name}/{target.name}"

    def invent(self, record: dict[str, Any], accuracy: float, hard: np.ndarray) -> bytes:
        """Return predictions of an accuracy, wrong on hard images first; make a record theirs, with its own weights."""
        draw = np.random.default_rng(int(accuracy * 100))
        right = round(accuracy * len(self.truth) / 100)
        order = draw.permutation(len(self.truth))
        wrong = order[np.argsort(hard[order], kind="stable")][right:]
        classes = self.truth.copy()
        classes[wrong] = (classes[wrong] + 1 + draw.integers(0, 8, len(wrong))) % 10
        content, top1 = npy_bytes(classes), 100 * right / len(self.truth)
        scores = [top1 - 0.5 * step for step in range(len(record["history"]))][::-1]
        for line, score in zip(record["history"], scores):
            line["top1"] = score
        record["result"] |= {"top1": top1, "top5": max(record["result"]["top5"], top1)}
        record["result"] |= {"optimistic_top1": top1, "optimistic_epoch": len(scores) - 1}
        record["predictions_sha256"] = hashlib.sha256(content).hexdigest()
        record["weights_sha256"] = hashlib.sha256(content + record["key"].encode()).hexdigest()
        return content

    def validate(self, **arguments: Any) -> Report:
        return validate(self.root, Truth(self.labels), now=NOW, **arguments)

    def board(self) -> dict[str, tuple[Any, ...]]:
        """Return rank, letters, and of each pair mean, gain and whether it is bold, of the rows of the demo board."""
        block, *_ = suite_board("demo", self.evidence()).blocks
        standing = block.standings
        rows = {}
        for row in block.rows:
            cells = [(s.mean, s.gain, row.label in best) for s, best in zip(row.scores, standing.level)]
            rows[row.label] = standing.ranks.get(row.label), standing.letters.get(row.label), *cells
        return rows

    def page(self) -> list[str]:
        """Return the lines of the demo board's page, without what only fills up cells."""
        page = board_markdown(board_of(suite_board("demo", self.evidence())))
        return [" ".join(line.split()) for line in page.splitlines()]

    def evidence(self) -> Evidence:
        return Evidence(results=self.root)

    def keys(self) -> set[str]:
        return {entry.key for entry in read_bundle(self.root).entries}

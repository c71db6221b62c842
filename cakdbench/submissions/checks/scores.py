"""Check that the accuracies are those of the predictions, and of the last epoch."""

import math
from collections.abc import Iterator

import numpy as np

from cakdbench.submissions.checks.case import Case
from cakdbench.submissions.findings import ANEW, Problem

EXACT = 1e-9
"""Points by which two ways to compute the same accuracy may differ."""


def check_predictions(case: Case) -> Iterator[Problem]:
    """Check that the predictions are the record's, one for every test image, and reach the accuracy it states."""
    predictions, top1 = case.entry.predictions, case.record.result.top1
    if case.entry.predictions_sha256 != case.record.predictions_sha256:
        yield Problem("its predictions are not those of the record: their hash is another")
    if len(predictions) != case.test_images:
        yield Problem(f"has {len(predictions)} predictions for {case.test_images} test images")
        return
    if case.classes and len(predictions) and predictions.max() >= case.classes:
        yield Problem(f"predicts class {predictions.max()} of {case.classes}")
    if case.labels is not None and not _same(reached := score(predictions, case.labels), top1):
        yield Problem(f"its predictions reach {reached:.4f} %, its record says {top1:.4f} %")


def score(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return the top-1 accuracy in percent."""
    return 100 * float((predictions == labels).mean())


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= EXACT


def check_result(case: Case) -> Iterator[Problem]:
    """Check that the result is the last epoch's."""
    result, history = case.record.result, case.record.history
    if not history:
        yield Problem("has no history")
        return
    last, best = history[-1], max((line.top1 for line in history if line.top1 is not None), default=None)
    if not _same(result.top1, last.top1):
        said = f"its result {result.top1:.4f} % is not the last epoch's, {_percent(last.top1)}"
        passed = " but the best epoch's, chosen on the test set" if _same(result.top1, best) else ""
        yield Problem(said + passed, "the metric is the last epoch: " + ANEW)
    if not _same(result.ema_top1, last.ema_top1):
        yield Problem("its EMA accuracy is not the last epoch's")
    if result.top5 < result.top1 - EXACT:
        yield Problem("its top-5 is below its top-1")


def _percent(value: float | None) -> str:
    return "which was not evaluated" if value is None else f"{value:.4f} %"


def check_best_epoch(case: Case) -> Iterator[Problem]:
    """Check that `optimistic_top1` and its epoch are the best of the history, the first of equals."""
    result = case.record.result
    scores = {line.epoch: line.top1 for line in case.record.history if line.top1 is not None}
    if not scores:
        return
    epoch, best = max(scores.items(), key=lambda item: item[1])
    if not _same(result.optimistic_top1, best) or result.optimistic_epoch != epoch:
        what = f"its best epoch is {epoch} with {best:.4f} %, not {result.optimistic_epoch}"
        yield Problem(f"{what} with {result.optimistic_top1:.4f} %")


def check_steps(case: Case) -> Iterator[Problem]:
    """Check that every accuracy is a number of images out of all."""
    record = case.record
    tested: dict[str, float | None] = {
        f"result.{name}": getattr(record.result, name) for name in ("top1", "top5", "ema_top1")
    }
    for line in record.history:
        tested |= {f"epoch {line.epoch}: {name}": getattr(line, name) for name in ("top1", "ema_top1")}
    if record.teacher:
        tested["teacher.measured"] = record.teacher.measured
    yield from _fractions(tested, case.test_images)
    if case.steps_per_epoch and case.recipe:
        trained: dict[str, float | None] = {
            f"epoch {line.epoch}: train_top1": line.train_top1 for line in record.history
        }
        yield from _fractions(trained, case.steps_per_epoch * case.recipe.global_batch)


def _fractions(values: dict[str, float | None], images: int) -> Iterator[Problem]:
    for name, value in values.items():
        if value is None:
            continue
        count = value * images / 100
        if not 0 <= value <= 100 + EXACT:
            yield Problem(f"{name} = {value:.6g} is no percentage")
        elif not math.isclose(count, round(count), abs_tol=1e-6):
            yield Problem(f"{name} = {value:.6f} % is no whole number of {images} images")

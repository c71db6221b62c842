"""Check that the accuracies are those of the predictions, and of the last epoch."""

import math
from collections.abc import Iterable, Iterator

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
    reached = top1 if case.labels is None else 100 * float(np.mean(predictions == case.labels))
    if not _same(reached, top1):
        yield Problem(f"its predictions reach {reached:.4f} %, its record says {top1:.4f} %")


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= EXACT


def check_result(case: Case) -> Iterator[Problem]:
    """Check that the result is the last epoch's, and `optimistic_top1` the best of the history, the first of equals."""
    result, history = case.record.result, case.record.history
    if not history:
        yield Problem("has no history")
        return
    last, scores = history[-1], {line.epoch: line.top1 for line in history if line.top1 is not None}
    epoch, best = max(scores.items(), key=lambda item: item[1], default=(None, None))
    if not _same(result.top1, last.top1):
        reached = "which was not evaluated" if last.top1 is None else f"{last.top1:.4f} %"
        passed = " but the best epoch's, chosen on the test set" if _same(result.top1, best) else ""
        what = f"its result {result.top1:.4f} % is not the last epoch's, {reached}{passed}"
        yield Problem(what, f"the metric is the last epoch: {ANEW}")
    if not _same(result.ema_top1, last.ema_top1):
        yield Problem("its EMA accuracy is not the last epoch's")
    if result.top5 < result.top1 - EXACT:
        yield Problem("its top-5 is below its top-1")
    if best is not None and not (_same(result.optimistic_top1, best) and result.optimistic_epoch == epoch):
        stated = f"{result.optimistic_epoch} with {result.optimistic_top1:.4f} %"
        yield Problem(f"its best epoch is {epoch} with {best:.4f} %, not {stated}")


def check_steps(case: Case) -> Iterator[Problem]:
    """Check that every accuracy is a number of images out of all."""
    result, teacher, history = case.record.result, case.record.teacher, case.record.history
    tested = [(f"result.{name}", getattr(result, name)) for name in ("top1", "top5", "ema_top1")]
    tested += [(f"result.networks.{name[:60]}", top1) for name, top1 in (result.networks or {}).items()]
    noisy = result.corruptions or ()
    tested += [(f"{each.corruption}: {n}", getattr(each, n)) for each in noisy for n in ("top1", "top5", "ema_top1")]
    tested += [(f"epoch {e.epoch}: {name}", getattr(e, name)) for e in history for name in ("top1", "ema_top1")]
    if teacher:
        tested += [("teacher.measured", teacher.measured), ("teacher.measured_top5", teacher.measured_top5)]
    yield from _fractions(tested, case.test_images)
    if case.steps_per_epoch and case.recipe:
        trained = [(f"epoch {line.epoch}: train_top1", line.train_top1) for line in history]
        yield from _fractions(trained, case.steps_per_epoch * case.recipe.global_batch)


def check_corruptions(case: Case) -> Iterator[Problem]:
    """Check that the corruptions are those that the recipe asks for; no predictions show how right the numbers are."""
    if case.recipe is None:
        return
    found, asked = case.record.result.corruptions or (), case.recipe.evaluation.corruptions
    if (names := tuple(str(each.corruption) for each in found)) != asked:
        tested = ", ".join(names)[:200] or "no corruption"
        yield Problem(f"was tested under {tested}; its recipe asks for {', '.join(asked)[:200] or 'none'}")
    for each in found:
        if each.top5 < each.top1 - EXACT:
            yield Problem(f"its top-5 under {each.corruption} is below its top-1")
        if (each.ema_top1 is not None) != (case.recipe.ema_decay is not None):
            yield Problem(f"its EMA accuracy under {each.corruption} does not go with its recipe")
    if found:
        what = "its accuracies under corruptions are its own word: its predictions are of clean images"
        yield Problem(what, "`cakdbench evaluate` computes them anew from its weights", note=True)


def _fractions(values: Iterable[tuple[str, float | None]], images: int) -> Iterator[Problem]:
    for name, value in values:
        count = (value or 0) * images / 100
        if value is not None and not 0 <= value <= 100 + EXACT:
            yield Problem(f"{name} = {value:.6g} is no percentage")
        elif not math.isclose(count, round(count), abs_tol=1e-6):
            yield Problem(f"{name} = {value:.6f} % is no whole number of {images} images")

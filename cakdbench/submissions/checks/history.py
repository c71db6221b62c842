"""Check that the history is that of the recipe: its epochs, its evaluations, its learning rates."""

import math
from collections.abc import Iterator

import torch

from cakdbench.recipes import Recipe
from cakdbench.submissions.checks.case import Case
from cakdbench.submissions.findings import ANEW, Problem
from cakdbench.train.lane import make_schedule

MOST_LOSSES = 64


def check_history(case: Case) -> Iterator[Problem]:
    """Check that every epoch is there once, and evaluated where the recipe asks for it."""
    if case.recipe is None:
        return
    history, epochs = case.record.history, case.recipe.epochs
    if [line.epoch for line in history] != list(range(epochs)):
        what = f"its history has {len(history)} epochs, numbered otherwise than 0 to {epochs - 1} as its recipe says"
        yield Problem(what)
        return
    for line in history:
        due = (line.epoch + 1) % case.recipe.evaluation.every == 0 or line.epoch == epochs - 1
        if due != (line.top1 is not None):
            yield Problem(f"epoch {line.epoch} is {'not ' * due}evaluated, which its recipe says otherwise")
        if (line.ema_top1 is not None) != (due and case.recipe.ema_decay is not None):
            yield Problem(f"epoch {line.epoch}: its EMA accuracy does not go with its recipe")


def check_losses(case: Case) -> Iterator[Problem]:
    """Check that every epoch has losses, finite ones."""
    for line in case.record.history:
        if not 0 < len(line.losses) <= MOST_LOSSES or not all(map(math.isfinite, line.losses.values())):
            yield Problem(f"epoch {line.epoch}: its losses are missing or not finite")


def check_rates(case: Case) -> Iterator[Problem]:
    """Check that the learning rates are those of the recipe's schedule."""
    history = case.record.history
    if case.recipe is None or len(history) != case.recipe.epochs:
        return
    rates = learning_rates(case.recipe, case.steps_per_epoch)
    for line, rate in zip(history, rates or ()):
        if not math.isclose(line.lr, rate, rel_tol=1e-6, abs_tol=1e-12):
            what = f"epoch {line.epoch}: its learning rate {line.lr:.6g} is not its recipe's, {rate:.6g}"
            yield Problem(what, "its recipe is not the one it was trained by: " + ANEW)
            return


def learning_rates(recipe: Recipe, steps_per_epoch: int | None) -> list[float] | None:
    """Return the rate at the end of every epoch; None where it depends on steps whose number is unknown."""
    if steps_per_epoch is None and recipe.schedule.per == "step":
        return None
    steps = steps_per_epoch or 1
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=recipe.optimizer.lr)
    schedule, rates = make_schedule(optimizer, recipe, steps), []
    for epoch in range(recipe.epochs):
        schedule.step(epoch)
        schedule.step_update((epoch + 1) * steps - 1)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates

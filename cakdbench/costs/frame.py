"""Counted costs as a pandas DataFrame."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

from cakdbench.costs.method_costs import MethodCost, method_costs
from cakdbench.data.datasets import dataset_facts
from cakdbench.engine.memory import predict_peak
from cakdbench.engine.work import Work
from cakdbench.grid.plan import Cell, Refusal, full_label, pair_info
from cakdbench.grid.suites import PairSpec, resolve_pairs
from cakdbench.recipes import load_recipe
from cakdbench.registry import methods_named, resolve_config, split_variant
from cakdbench.utils.errors import UsageError

NAMES = ["method", "pair", "teacher", "student", "dataset", "recipe"]
COUNTS = [field.name for field in fields(MethodCost) if field.name not in ("label", "pair")]
PEAK = "predicted_peak_mb"
INTEGERS = [name for name in COUNTS if name not in ("teacher_pass", "buffers_mb")]


def count_costs(
    methods: str | Iterable[str],
    pairs: str,
    recipe: str | None = None,
    num_classes: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    memory: bool = False,
) -> pd.DataFrame:
    """Return what methods cost on pairs, a row a method and pair, counted without weights, data or training.

    Columns:
        method: as users write it, `fbt` or `fbt:no_infonce`. pair, teacher, student, dataset, recipe: where.
        classes, image_size, local_batch and all counts: the attributes of `MethodCost`. MACs are multiply-adds of
            forward passes per image.
        predicted_peak_mb: with `memory`, 2^20 bytes at the peak of a training step of the method alone, its teacher
            included; missing for a method that cannot go without content.
        refusal: why the method does not take the pair, or how it fails; then there are no counts.

    Args:
        methods: a list, or names separated by commas: `METHOD`, `METHOD:VARIANT`, `METHOD[KEY=1|2]`, `all`.
        pairs: suites or pairs, separated by commas.
        recipe: for all pairs, instead of each pair's own.
        num_classes: of both classifiers; None: the dataset's.
        data_dir: where the datasets lie; only for `timm:` datasets.
        memory: predict it too, about a second a row.

    Raises:
        UsageError: a name is unknown, a setting impossible, or no method named.
    """
    labels = methods_named(methods) if isinstance(methods, str) else list(methods)
    labels = list(dict.fromkeys(map(full_label, labels)))
    if not labels:
        raise UsageError("no methods named; give a list of them, or all")
    folder = None if data_dir is None else Path(data_dir)
    rows = _rows(labels, resolve_pairs(pairs, recipe), num_classes, folder, memory)
    frame = pd.DataFrame(rows, columns=[*NAMES, *COUNTS, *[PEAK] * memory, "refusal"])
    return frame.astype(dict.fromkeys(INTEGERS, "Int64"))


def _rows(
    labels: list[str], specs: list[PairSpec], classes: int | None, data_dir: Path | None, memory: bool
) -> Iterator[dict[str, Any]]:
    for spec in specs:
        pair = spec.pair
        names = {"pair": str(pair), "teacher": pair.teacher, "student": pair.student}
        names |= {"dataset": pair.dataset, "recipe": spec.recipe}
        for cost in method_costs(labels, [spec], classes, data_dir):
            if isinstance(cost, Refusal):
                counts: dict[str, Any] = {"refusal": cost.reason}
            else:
                counts = asdict(cost) | {"refusal": None}
                counts |= {PEAK: _peak_mb(cost.label, spec, classes, data_dir)} if memory else {}
            yield counts | names | {"method": cost.label}


def _peak_mb(label: str, spec: PairSpec, classes: int | None, data_dir: Path | None) -> float | None:
    facts, recipe = dataset_facts(spec.pair.dataset, data_dir), load_recipe(spec.recipe)
    method, variant = split_variant(label)
    infos = pair_info(spec.pair, recipe.image_size, recipe.split, data_dir)
    config = resolve_config(method, variant, *infos, spec.pair.dataset)
    cell = Cell(method, label, config, spec.pair, recipe, seed=0)
    peak = predict_peak(Work(cell, classes or facts.num_classes, facts.n_train))
    return peak.total / 2**20 if peak else None

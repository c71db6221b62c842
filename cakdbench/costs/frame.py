"""Counted costs as a pandas DataFrame."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

from cakdbench.costs.method_costs import MethodCost, method_costs
from cakdbench.grid.plan import Refusal, full_label
from cakdbench.grid.suites import PairSpec, resolve_pairs
from cakdbench.registry import methods_named
from cakdbench.utils.errors import UsageError

NAMES = ["method", "pair", "teacher", "student", "dataset", "recipe"]
COUNTS = [field.name for field in fields(MethodCost) if field.name not in ("label", "pair")]
INTEGERS = [name for name in COUNTS if name not in ("teacher_pass", "buffers_mb")]


def count_costs(
    methods: str | Iterable[str],
    pairs: str,
    recipe: str | None = None,
    num_classes: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Return what methods cost on pairs, a row a method and pair, counted without weights, data or training.

    Columns:
        method: as users write it, `fbt` or `fbt:no_infonce`. pair, teacher, student, dataset, recipe: where.
        classes, image_size, local_batch and all counts: the attributes of `MethodCost`. MACs are multiply-adds of
            forward passes per image.
        refusal: why the method does not take the pair, or how it fails; then there are no counts.

    Args:
        methods: a list, or names separated by commas: `METHOD`, `METHOD:VARIANT`, `METHOD[KEY=1|2]`, `all`.
        pairs: suites or pairs, separated by commas.
        recipe: for all pairs, instead of each pair's own.
        num_classes: of both classifiers; None: the dataset's.
        data_dir: where the datasets lie; only for `timm:` datasets.

    Raises:
        UsageError: a name is unknown, a setting impossible, or no method named.
    """
    labels = methods_named(methods) if isinstance(methods, str) else list(methods)
    labels = list(dict.fromkeys(map(full_label, labels)))
    if not labels:
        raise UsageError("no methods named; give a list of them, or all")
    rows = _rows(labels, resolve_pairs(pairs, recipe), num_classes, None if data_dir is None else Path(data_dir))
    frame = pd.DataFrame(rows, columns=[*NAMES, *COUNTS, "refusal"])
    return frame.astype(dict.fromkeys(INTEGERS, "Int64"))


def _rows(
    labels: list[str], specs: list[PairSpec], classes: int | None, data_dir: Path | None
) -> Iterator[dict[str, Any]]:
    for spec in specs:
        pair = spec.pair
        names = {"pair": str(pair), "teacher": pair.teacher, "student": pair.student}
        names |= {"dataset": pair.dataset, "recipe": spec.recipe}
        for cost in method_costs(labels, [spec], classes, data_dir):
            counts = {"refusal": cost.reason} if isinstance(cost, Refusal) else asdict(cost) | {"refusal": None}
            yield counts | names | {"method": cost.label}

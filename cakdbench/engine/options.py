"""A run of a grid in names and numbers: what the command, the notebook and the workers begin with."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from cakdbench.engine.tracking import tracker_names
from cakdbench.grid.plan import Settings
from cakdbench.grid.tuned import read_tuned, tunings
from cakdbench.records import Tuning
from cakdbench.registry import load_files, methods_named
from cakdbench.train.runtime import Options
from cakdbench.utils.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class RunOptions:
    """Everything `cakdbench run` is told; it can be written as JSON and read in another process.

    Attributes:
        methods: labels; scratch and kd join by themselves.
        pairs: suites, groups, TEACHER>STUDENT@DATASET, paths of suite files; comma-separated.
        experiment: a table of a paper, in the place of methods, pairs and recipe; `tiny` with small models and data.
        recipe: for all pairs, instead of each pair's own.
        method_files: Python files that register methods.
        dataset_files: TOML files that describe datasets.
        model_files: Python files that register networks.
        teacher_files: TOML files with teacher entries that win over the registry's.
        store: folder of the runs.
        teacher_dir: folder of the teachers' weight files.
        precision: "fp32", or "bf16" (autocast); part of a run's key.
        cpu: leave a GPU alone.
        gpus: those of this machine that work, by number; this process takes the first. Empty: all.
        threads: of each process on a CPU.
        computing: how, without any effect on results.
        tunings: how the settings of labels were found on a dataset, where by tuning, by `LABEL@DATASET`.
    """

    methods: tuple[str, ...] = ()
    pairs: str = ""
    experiment: str = ""
    tiny: bool = False
    recipe: str | None = None
    seeds: tuple[int, ...] = (0,)
    settings: Settings = field(default_factory=Settings)
    method_files: tuple[Path, ...] = ()
    dataset_files: tuple[Path, ...] = ()
    model_files: tuple[Path, ...] = ()
    teacher_files: tuple[Path, ...] = ()
    store: Path = Path("runs")
    teacher_dir: Path = Path("teachers")
    precision: str = "fp32"
    cpu: bool = False
    gpus: tuple[int, ...] = ()
    threads: int = 1
    computing: Options = field(default_factory=Options)
    tunings: dict[str, Tuning] = field(default_factory=dict)


def run_options(
    methods: str | Iterable[str] = "",
    settings: Iterable[str] = (),
    method_files: Iterable[Path] = (),
    model_files: Iterable[Path] = (),
    tuned_files: Iterable[Path] = (),
    **others: Any,
) -> RunOptions:
    """Return the options that names as users write them stand for; registers what the files hold.

    Args:
        methods: labels and grids of labels, or `all`; a list, or separated by commas.
        settings: `OWNER.KEY=VALUE`, as in `recipe.epochs=5`.
        tuned_files: what `cakdbench tune` wrote: the settings it found are methods beside the others.
        others: fields of `RunOptions` and `Options`.

    Raises:
        UsageError: a file, a name or a setting is wrong.
    """
    files = tuple(map(Path, method_files)), tuple(map(Path, model_files))
    load_files(*files)
    others["track"] = tracker_names(others.get("track", ()))
    names = methods if isinstance(methods, str) else ",".join(methods)
    computing = Options(**{field.name: others.pop(field.name) for field in fields(Options) if field.name in others})
    parsed = Settings.parse(settings)
    searched = [*map(Path, tuned_files)]
    labels = tuple(methods_named(",".join([names, *(read_tuned(path).label for path in searched)])))
    return RunOptions(
        methods=labels,
        settings=parsed,
        method_files=files[0],
        model_files=files[1],
        computing=computing,
        tunings=tunings(searched),
        **others,
    )


def to_json(value: Any) -> str:
    """Return a dataclass of plain values, paths and other dataclasses as JSON."""
    return json.dumps(TypeAdapter(type(value)).dump_python(value), default=str)  # in its own mode infinity is null


def from_json(kind: type[T], text: str) -> T:
    """Return what `to_json` wrote.

    Raises:
        UsageError: it is something else.
    """
    try:
        return TypeAdapter(kind).validate_python(json.loads(text))
    except (ValueError, ValidationError) as error:
        raise UsageError(f"not a {kind.__name__} as cakdbench writes it: {error}") from error

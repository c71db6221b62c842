"""Train from Python programs and notebooks: runs of the grid, and methods for loops of their own."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import Tensor, nn

from cakdbench.build import build_method, staged_pair
from cakdbench.engine.launch.choice import Launch
from cakdbench.engine.options import RunOptions, run_options
from cakdbench.engine.progress import progress_on
from cakdbench.engine.session import Session
from cakdbench.engine.weight_files import check_hub_classes
from cakdbench.method import Method
from cakdbench.models.catalog import entry
from cakdbench.models.staged import StagedModel
from cakdbench.train.batch import make_batch
from cakdbench.utils.errors import UsageError
from cakdbench.utils.places import cache_path, existing_folder
from cakdbench.utils.rng import seeded

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["create_method", "make_batch", "run"]

PathLike = str | os.PathLike[str]


def run(
    methods: str | Iterable[str] = "",
    pairs: str = "demo",
    seeds: Sequence[int] = (0,),
    store: PathLike | None = None,
    *,
    recipe: str | None = None,
    settings: Mapping[str, Any] | None = None,
    precision: str = "fp32",
    launcher: str = "local",
    jobs: int | None = None,
    gpus: Sequence[int] = (),
    ray_address: str | None = None,
    gpu_share: float = 1.0,
    slurm: Mapping[str, Any] | None = None,
    progress: bool = True,
    stop: Callable[[], bool] = lambda: False,
    method_files: Iterable[PathLike] = (),
    model_files: Iterable[PathLike] = (),
    teacher_files: Iterable[PathLike] = (),
    dataset_files: Iterable[PathLike] = (),
    data_dir: PathLike | None = None,
    teacher_dir: PathLike | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Train every cell of methods x pairs x seeds that is not done yet, as `cakdbench run`, and return its runs.

    Signal handlers stay as they are: an interrupt loses the work since the last checkpoint, and no finished run. The
    same call goes on from there.

    Args:
        methods: labels, or text with commas; scratch and kd join by themselves.
        pairs: suites, groups or TEACHER>STUDENT@DATASET; comma-separated.
        store: folder of the runs; default: CAKDBENCH_STORE, or `runs`.
        recipe: for all pairs, instead of each pair's own.
        settings: changed numbers, as in `{"recipe.epochs": 5, "ofa.gamma": 1.2, "teacher.epochs": 1}`.
        launcher: where the processes come from: "local", "ray" or "slurm"; docs/cluster.md has more.
        jobs: processes, tasks or jobs at a time; None: as many as are of use, on one machine one per GPU or core.
        gpus: those of this machine that work, by number; default: all.
        ray_address: `auto` or HOST:PORT of a Ray cluster; None starts one on this machine.
        gpu_share: of a GPU that a task of Ray needs.
        slurm: settings of the jobs, as `{"partition": "gpu", "time": 240}`.
        progress: print how far it is.
        method_files, model_files: Python files with methods and networks of one's own.
        stop: asked between two steps; once it is true, all lanes are saved and `Interrupted` is raised.
        dataset_files: TOML files that describe datasets; in this process they stay known.
        data_dir, teacher_dir: default: CAKDBENCH_DATA and CAKDBENCH_TEACHERS, or the user's cache.
        options: further fields of `RunOptions` and `Options`, as `cpu`, `threads` or `max_lanes`; with `experiment`, a
            table of a paper, as `tas_table4`, methods, pairs and recipe are its own.

    Returns:
        The finished runs, a row each, as `load_results` gives them; of a failed run a warning says why.

    Raises:
        CakdError: something is missing or wrong; nothing has been started, or all is saved.
    """
    texts = [f"{name}={_toml(value)}" for name, value in (settings or {}).items()]
    made = run_options(
        methods,
        texts,
        map(Path, method_files),
        map(Path, model_files),
        pairs=pairs,
        recipe=recipe,
        seeds=tuple(seeds),
        teacher_files=tuple(map(Path, teacher_files)),
        dataset_files=tuple(map(Path, dataset_files)),
        store=_folder(store, "CAKDBENCH_STORE", "runs"),
        teacher_dir=_folder(teacher_dir, "CAKDBENCH_TEACHERS", cache_path("teachers")),
        data_dir=None if data_dir is None else existing_folder(Path(data_dir)),
        precision=precision,
        gpus=tuple(gpus),
        **options,
    )
    launch = Launch(launcher, jobs, ray_address, gpu_share, {name: str(value) for name, value in (slurm or {}).items()})
    return _run(made, launch, Console(quiet=not progress), stop)


def _run(options: RunOptions, launch: Launch, console: Console, stop: Callable[[], bool]) -> pd.DataFrame:
    launch.check(options)
    threads = torch.get_num_threads()
    try:
        display = progress_on(console)
        session = Session(options, display, stop)
        launch.tell(session)
        with display:
            outcome = session.run(launch.make(session))
    finally:
        torch.set_num_threads(threads)  # of the caller
    for key, reason in outcome.failed.items():
        warnings.warn(f"failed: {key}: {reason}", stacklevel=3)
    return _runs(options.store, outcome.done, options.computing.data_dir)


def _folder(path: PathLike | None, variable: str, default: PathLike) -> Path:
    """Return `path`, else the one that an environment variable names, else the default."""
    return Path(path) if path else Path(os.environ.get(variable, default))


def _toml(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | list | tuple) else "none" if value is None else str(value)


def _runs(store: Path, keys: list[str], data_dir: Path | None) -> pd.DataFrame:
    from cakdbench.api import load_results

    runs = load_results(store, data_dir=data_dir)
    return runs[runs["key"].isin(keys)].reset_index(drop=True)


def create_method(
    method: str,
    student: str | nn.Module,
    teacher: str | nn.Module | None = None,
    num_classes: int | None = None,
    *,
    image_size: int | None = None,
    dataset: str = "",
    settings: Mapping[str, Any] | None = None,
    labels: Tensor | None = None,
    seed: int = 0,
    split: str = "ofa",
) -> Method:
    """Return a method to train in a loop of one's own.

        from cakdbench import create_method, make_batch

        method = create_method("fbt:no_infonce", student="resnet18", teacher=net, num_classes=100)
        optimizer = torch.optim.SGD(method.parameters(), lr=0.05)
        for epoch in range(epochs):
            method.epoch_start(epoch)
            for images, target in loader:
                method(make_batch(method, images, target, epoch=epoch)).total.backward()
                optimizer.step()
                optimizer.zero_grad()
                method.step_end()
        method.student.net                   # timm's own network

    Student and extra modules are the method's parameters. The teacher becomes frozen, in eval mode, and is moved by
    itself: `method.teacher.to(device)`. Both networks see the same images; if the teacher wants them normalised
    otherwise, `method.teacher.expect_input` says so. A method with an adversary has `extra_optimizers()`.

    Args:
        method: `METHOD`, `METHOD:VARIANT` or `METHOD[KEY=VALUE]`.
        student: a model id, drawn from `seed` as in a run; or a network, as it is: of timm, or any `nn.Module` that
            gives logits.
        teacher: a model id, with its weights of the timm hub; or a network with its weights. None for a method that
            needs none.
        num_classes: of networks that are made here; default: those of the network that is given.
        image_size: height and width of the images; default: those the given network, or the teacher's, was made for.
            Networks that do not say take the other's.
        dataset: its name, for the settings that a method has for some datasets.
        settings: of the method, over the label's.
        labels: `(N,)` classes of the training samples, for methods that tell samples apart.
        split: where networks of equal blocks are cut: "ofa" or "even".

    Raises:
        UsageError: a name is unknown, a setting wrong, the pair refused, or classes or image sizes differ.
        TeacherError: there are no hub weights, or they are of other classes.
    """
    if student is None:
        raise UsageError("give a student: the name of a model, or a network")
    pupil, master = _networks(student, teacher, num_classes, image_size, split, seed)
    return build_method(method, pupil, master, dataset=dataset, settings=settings, labels=labels, seed=seed).train()


def _networks(
    student: str | nn.Module,
    teacher: str | nn.Module | None,
    num_classes: int | None,
    image_size: int | None,
    split: str,
    seed: int,
) -> tuple[StagedModel, StagedModel | None]:
    """Return student and teacher in stages, for the same classes and images; see `create_method`."""
    pupil, master = staged_pair(student, teacher, image_size, split)
    whole = next((model for model in (master, pupil) if isinstance(model, StagedModel)), None)
    classes = num_classes or (whole and whole.num_classes)
    if not classes:
        raise UsageError("give num_classes: names of models do not say how many classes they tell apart")
    names = [model for model in (master, pupil) if isinstance(model, str)]
    size = image_size or (whole.image_size if whole else entry(names[0]).image_size)
    if isinstance(pupil, str):
        with seeded(seed, "student", pupil):
            pupil = StagedModel(pupil, classes, size, split=split)
    if isinstance(master, str):
        master = _hub_teacher(master, classes, size, split)
    other = whole.name if isinstance(whole, StagedModel) else ""
    for model in filter(None, (pupil, master)):
        _check_fits(model, "classes", model.num_classes, classes, "num_classes" if num_classes else other)
        _check_fits(model, "px", model.image_size, size, "image_size" if image_size else other)
    return pupil, master


def _hub_teacher(name: str, classes: int, size: int, split: str) -> StagedModel:
    if hub := entry(name).hub:
        check_hub_classes(hub, classes)
    return StagedModel(name, classes, size, pretrained=True, split=split)


def _check_fits(model: StagedModel, unit: str, own: int, wanted: int, other: str) -> None:
    """Raise UsageError if a network is made for other classes or images than the other one, or than was asked for."""
    remedy = "give image_size or make both for the same" if unit == "px" else "make both for the same"
    if own != wanted:
        raise UsageError(f"{model.name} is made for {own} {unit}, and {other} for {wanted} {unit}: {remedy}")

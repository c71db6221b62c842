"""Teachers and their verification: where the weights come from, and proof that they are what the entry says.

A trained teacher is a `scratch` run whose student is the teacher's model: it has the lock, the checkpoints and
the record of any other run, and lives in the same store.
"""

import json
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cakdbench.data.datasets import ImageDataset
from cakdbench.data.stream import EvalStream
from cakdbench.grid.plan import ALWAYS, Cell, Settings
from cakdbench.grid.suites import Pair, check_dataset
from cakdbench.grid.teachers import TeacherEntry, load_teachers, teachers_from_file
from cakdbench.models.catalog import entry as model_entry
from cakdbench.models.catalog import hub_classes, hub_statistics
from cakdbench.models.staged import StagedModel
from cakdbench.models.weights import load_weights, state_sha256, weights_sha256
from cakdbench.recipes import Recipe, load_recipe
from cakdbench.records import Statistics, TeacherFacts, TeacherIdentity
from cakdbench.registry import get_method
from cakdbench.source_hash import model_source
from cakdbench.store import RunFolder, Store, write_atomic
from cakdbench.train.evaluate import evaluate
from cakdbench.train.runtime import Runtime
from cakdbench.utils.errors import TeacherError, UsageError


@dataclass
class Teacher:
    """A teacher's weights, loaded on the CPU, and what its entry expects of them (accuracy in percent)."""

    model: StagedModel
    sha256: str
    source: str
    expected: float | None
    tolerance: float
    standard: bool


class Teachers:
    """Finds, trains and loads teachers by (model, dataset).

    Args:
        folder: where weight files lie, or are downloaded to.
        extra: TOML files with entries of the user's own; they win over the registry's.
        precision: that teachers are trained in.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        settings: Settings,
        extra: list[Path] | None = None,
        precision: str = "fp32",
    ):
        self.store = store
        self.folder = folder
        self.settings = settings
        self.precision = precision
        self._hashes: dict[tuple[str, str, int], str] = {}
        own = folder / "teachers.toml"
        self.registry = load_teachers()
        self.entries = load_teachers([*([own] if own.is_file() else []), *(extra or [])])

    def entry(self, model: str, dataset: str) -> TeacherEntry:
        try:
            return self.entries[model, dataset]
        except KeyError:
            raise UsageError(
                f"no teacher {model} for {dataset}: train one with `cakdbench teacher train {model}@{dataset} "
                "--recipe RECIPE`, or give an entry with the path of its weights in a file (--teachers FILE)"
            ) from None

    def is_standard(self, model: str, dataset: str) -> bool:
        """Return True if it is made as the registry says; where that says nothing, every teacher is as good."""
        entry, name = self.entry(model, dataset), (model, dataset)
        changed = entry.train is not None and bool(self.settings.teacher)
        return not changed and (name not in self.registry or self.registry[name] == entry)

    def training_cell(self, model: str, dataset: str) -> Cell | None:
        """Return the run that makes a teacher; None for one whose weights come from elsewhere."""
        entry = self.entry(model, dataset)
        if entry.train is None:
            return None
        recipe = load_recipe(entry.train).override(self.settings.teacher)
        scratch = get_method(ALWAYS[0])
        pair = Pair(entry.zoo_model, entry.zoo_model, dataset)
        return Cell(scratch, scratch.id, scratch.Config(), pair, recipe, seed=0, precision=self.precision)

    def run(self, model: str, dataset: ImageDataset) -> RunFolder | None:
        """Return the run folder of a trained teacher, finished or not; None for one from elsewhere."""
        cell = self.training_cell(model, dataset.name)
        return None if cell is None else self.store.run(cell.identity(dataset, None))

    def identity(self, model: str, dataset: ImageDataset, recipe: Recipe) -> TeacherIdentity:
        """Return the part of a run's key that is the teacher's; a trained one must have been trained."""
        run = self.run(model, dataset)
        name = model, dataset.name, recipe.image_size
        if run is None and name not in self._hashes:
            self._hashes[name] = self.load(model, dataset, recipe).sha256
        sha256 = run.record().weights_sha256 if run else self._hashes[name]
        statistics, source = (
            self._statistics(model, dataset, recipe),
            model_source(self.entry(model, dataset.name).zoo_model),
        )
        return TeacherIdentity(model=model, sha256=sha256, statistics=statistics, source=source)

    def _statistics(self, model: str, dataset: ImageDataset, recipe: Recipe) -> Statistics | None:
        """Return mean and deviation that the teacher is fed with, where they are not the dataset's."""
        entry = self.entry(model, dataset.name)
        tag = entry.statistics or entry.hub
        if recipe.teacher_norm == "shared" or tag is None:
            return None
        mean, std = hub_statistics(tag)
        statistics = tuple(mean), tuple(std)
        return None if statistics == (tuple(dataset.mean), tuple(dataset.std)) else statistics

    def load(self, model: str, dataset: ImageDataset, recipe: Recipe) -> Teacher:
        """Return the teacher with its weights, fed with images normalised as in its training or as `recipe` says.

        Raises:
            TeacherError: weights missing, damaged, or of another model or dataset.
        """
        entry = self.entry(model, dataset.name)
        if entry.hub:
            check_hub_classes(entry.hub, dataset.num_classes)
        net = StagedModel(
            entry.zoo_model,
            dataset.num_classes,
            recipe.image_size,
            pretrained=entry.hub or False,
            split=recipe.split,
        )
        sha256, expected = self._fill(net, entry, dataset)
        statistics = self._statistics(model, dataset, recipe)
        if statistics:
            net.expect_input((dataset.mean, dataset.std), statistics)
        net.requires_grad_(False).eval()
        standard = self.is_standard(model, dataset.name)
        return Teacher(net, sha256, entry.source, expected, entry.allowed, standard)

    def _fill(self, net: StagedModel, entry: TeacherEntry, dataset: ImageDataset) -> tuple[str, float | None]:
        """Load the weights a hub net does not have yet; return their hash and the accuracy they should reach."""
        if entry.train:
            return self._trained(net, entry.model, dataset)
        if not entry.hub:
            load_weights(net, self._read(entry))
        return weights_sha256(net), entry.accuracy

    def _trained(self, net: StagedModel, model: str, dataset: ImageDataset) -> tuple[str, float]:
        run = self.run(model, dataset)
        assert run is not None, f"the entry of {model} says by which recipe it is trained"
        record, state = run.record(), _read_weights(run.student)
        if state_sha256(state) != record.weights_sha256:
            raise TeacherError(
                f"the weights in {run.student} are not those of its record; delete the folder {run.path} "
                "and run the same command again: the teacher is trained anew"
            )
        load_weights(net, state)
        return record.weights_sha256, record.result.top1

    def _read(self, entry: TeacherEntry) -> dict[str, torch.Tensor]:
        return _read_weights(self.fetch(entry))

    def fetch(self, entry: TeacherEntry) -> Path:
        """Return the file of an entry's weights, downloaded if it is not there yet.

        Raises:
            TeacherError: it is not there and cannot be had.
        """
        path = self.file(entry)
        if not path.is_file():
            self._download(entry, path)
        return path

    def file(self, entry: TeacherEntry) -> Path:
        """Return where an entry's weights lie, or will."""
        if entry.path:
            return Path(entry.path)
        return self.folder / (entry.file or f"{entry.model}@{entry.dataset}.pth")

    def _download(self, entry: TeacherEntry, path: Path) -> None:
        try:
            if not entry.url:
                raise OSError("the file does not exist and its entry has no url")
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(entry.url, str(path), progress=False)
        except OSError as error:
            raise TeacherError(
                f"no weights for the teacher {entry.model} on {entry.dataset} ({error}): put the file at {path}"
                + (f" (from {entry.url})" if entry.url else "")
            ) from error


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise TeacherError(f"cannot read the teacher's weights in {path}: {error}") from error


def check_hub_classes(tag: str, num_classes: int) -> None:
    """Check that hub weights teach the dataset's classes: with others, timm would draw a new head.

    Raises:
        TeacherError: the weights have another number of classes.
        UsageError: timm has no weights of this name.
    """
    classes = hub_classes(tag)
    if classes != num_classes:
        raise TeacherError(
            f"the hub weights {tag} tell {classes} classes apart and the dataset has {num_classes}: take weights that "
            "were fine-tuned on it, or train a teacher with `cakdbench teacher train`"
        )


def verify_teacher(teacher: Teacher, dataset: ImageDataset, recipe: Recipe, runtime: Runtime) -> TeacherFacts:
    """Evaluate a teacher on the test set as the students will be, before any of them trains.

    Raises:
        TeacherError: its accuracy is not the expected one, and `Options.allow_teacher_mismatch` is off.
    """
    model = teacher.model.to(runtime.accelerator.device)
    test = EvalStream(dataset.test, dataset, recipe, **runtime.rendering)
    measured = evaluate(model, test, runtime.accelerator).top1
    wrong = teacher.expected is not None and abs(measured - teacher.expected) > teacher.tolerance + 1e-6
    if wrong and not runtime.options.allow_teacher_mismatch:
        raise TeacherError(
            f"the teacher {model.name} on {dataset.name} ({teacher.source}) reaches {measured:.2f} %, its entry "
            f"says {teacher.expected:.2f} % (tolerance {teacher.tolerance}); no student was trained. Check the "
            "weights and the image transform, or accept and record it with --allow-teacher-mismatch"
        )
    return TeacherFacts(
        measured=measured,
        expected=teacher.expected,
        tolerance=teacher.tolerance,
        source=teacher.source,
        mismatch_allowed=wrong,
        standard=teacher.standard,
    )


def note_training(folder: Path, model: str, dataset: str, recipe: str) -> None:
    """Enter a teacher that is to be trained by `recipe` in the user's own list, `folder/teachers.toml`.

    Raises:
        UsageError: there is no such model, dataset or recipe.
    """
    if recipe.endswith(".toml"):
        recipe = str(Path(recipe).expanduser().resolve())
    load_recipe(recipe)
    model_entry(TeacherEntry(model=model, dataset=dataset, train=recipe).zoo_model)
    check_dataset(dataset)
    own = folder / "teachers.toml"
    entries = dict(teachers_from_file(own)) if own.is_file() else {}
    entries[model, dataset] = TeacherEntry(model=model, dataset=dataset, train=recipe)
    write_atomic(own, "".join(map(_toml, entries.values())).encode())


def _toml(entry: TeacherEntry) -> str:
    """Return an entry as TOML; strings in JSON's notation are strings in TOML's."""
    values = entry.model_dump(exclude_defaults=True, exclude={"reported"})
    return "[[teachers]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()) + "\n"

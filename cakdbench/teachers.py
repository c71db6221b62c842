"""Teachers and their gate: where the weights come from, and proof that they are what the entry says.

A trained teacher is a `scratch` run whose student is the teacher's model: it has the lock, the checkpoints and
the record of any other run, and lives in the same store.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file

from cakdbench.data.datasets import ImageDataset
from cakdbench.data.stream import EvalStream
from cakdbench.errors import TeacherError, UsageError
from cakdbench.models.staged import StagedModel
from cakdbench.models.weights import load_weights, weights_sha256
from cakdbench.models.zoo import hub_statistics
from cakdbench.plan import Cell, Settings
from cakdbench.recipes import Recipe, load_recipe
from cakdbench.records import TeacherFacts
from cakdbench.registry import get_method
from cakdbench.store import RunFolder, Store, write_atomic
from cakdbench.suites import Pair
from cakdbench.teacher_entries import TeacherEntry, load_teachers
from cakdbench.train.evaluate import evaluate


@dataclass
class Teacher:
    """A teacher's weights, loaded on the CPU, and what its entry expects of them (accuracy in percent)."""

    model: StagedModel
    sha256: str
    source: str
    expected: float | None
    tolerance: float


class Teachers:
    """Finds, trains and loads teachers by (model, dataset).

    Args:
        folder: where weight files lie, or are downloaded to.
        extra: TOML files with entries of the user's own; they win over the registry's.
    """

    def __init__(self, store: Store, folder: Path, settings: Settings, extra: list[Path] | None = None):
        self.store, self.folder, self.settings = store, folder, settings
        self._hashes: dict[tuple[str, str], str] = {}
        own = folder / "teachers.toml"
        self.entries = load_teachers([*([own] if own.is_file() else []), *(extra or [])])

    def entry(self, model: str, dataset: str) -> TeacherEntry:
        try:
            return self.entries[model, dataset]
        except KeyError:
            raise UsageError(
                f"no teacher {model} for {dataset}: train one with `cakdbench teacher train {model}@{dataset} "
                "--recipe RECIPE`, or give an entry with the path of its weights in a file (--teachers FILE)"
            ) from None

    def training_cell(self, model: str, dataset: str) -> Cell | None:
        """The run that makes a teacher; None for one whose weights come from elsewhere."""
        entry = self.entry(model, dataset)
        if entry.train is None:
            return None
        recipe = load_recipe(entry.train).override(self.settings.teacher)
        return training_cell(entry.zoo_model, dataset, recipe)

    def run(self, model: str, dataset: ImageDataset) -> RunFolder | None:
        """The run folder of a trained teacher, finished or not; None for one from elsewhere."""
        cell = self.training_cell(model, dataset.name)
        return cell and self.store.run(cell.identity(dataset, None))

    def sha256(self, model: str, dataset: ImageDataset, image_size: int) -> str:
        """What the teacher's weights hash to: part of the key of every run it teaches."""
        run = self.run(model, dataset)
        if run:
            return run.record().weights_sha256
        if (model, dataset.name) not in self._hashes:
            self._hashes[model, dataset.name] = self.load(model, dataset, image_size).sha256
        return self._hashes[model, dataset.name]

    def load(self, model: str, dataset: ImageDataset, image_size: int, norm: str = "own") -> Teacher:
        """The teacher with its weights; a trained one must have been trained.

        Args:
            norm: "own" feeds it images normalised as it was trained, "shared" as the student gets them.

        Raises:
            TeacherError: weights missing, damaged or of another model.
        """
        entry = self.entry(model, dataset.name)
        net = StagedModel(entry.zoo_model, dataset.num_classes, image_size, pretrained=entry.hub or False)
        if entry.train:
            teacher = self._trained(net, model, dataset)
        else:
            if not entry.hub:
                load_weights(net, self._read(entry))
            teacher = Teacher(net, weights_sha256(net), entry.source, entry.accuracy, entry.allowed)
        if norm == "own" and entry.hub:
            net.expect_input((dataset.mean, dataset.std), hub_statistics(entry.hub))
        net.requires_grad_(False).eval()
        return teacher

    def _trained(self, net: StagedModel, model: str, dataset: ImageDataset) -> Teacher:
        run = self.run(model, dataset)
        record = run.record()
        load_weights(net, _read_weights(run.student))
        sha256 = weights_sha256(net)
        if sha256 != record.weights_sha256:
            raise TeacherError(
                f"the weights in {run.student} are not those of its record; delete the folder {run.path} "
                "and run the same command again: the teacher is trained anew"
            )
        entry = self.entry(model, dataset.name)
        return Teacher(net, sha256, entry.source, record.result.top1, entry.allowed)

    def _read(self, entry: TeacherEntry) -> dict[str, torch.Tensor]:
        path = self.file(entry)
        if not path.is_file():
            self._download(entry, path)
        return _read_weights(path)

    def file(self, entry: TeacherEntry) -> Path:
        """Where an entry's weights lie, or will."""
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


def training_cell(model: str, dataset: str, recipe: Recipe, seed: int = 0) -> Cell:
    """A teacher's training: the scratch run of its model."""
    scratch = get_method("scratch")
    return Cell(scratch, None, scratch.Config(), Pair(model, model, dataset), recipe, seed)


def gate(
    teacher: Teacher, dataset: ImageDataset, recipe: Recipe, accelerator: Accelerator, allow_mismatch: bool
) -> TeacherFacts:
    """Evaluate a teacher on the test set as the students will be, in float32, before any of them trains.

    Raises:
        TeacherError: its accuracy is not the expected one, and that is not allowed.
    """
    model = teacher.model.to(accelerator.device)
    measured = evaluate(model, EvalStream(dataset.test, dataset, recipe), accelerator, autocast=False).top1
    wrong = teacher.expected is not None and abs(measured - teacher.expected) > teacher.tolerance + 1e-6
    if wrong and not allow_mismatch:
        raise TeacherError(
            f"the teacher {model.name} on {dataset.name} ({teacher.source}) reaches {measured:.2f} %, its entry "
            f"says {teacher.expected:.2f} % (tolerance {teacher.tolerance}); nothing was trained. Check the "
            "weights and the image transform, or accept and record it with --allow-teacher-mismatch"
        )
    return TeacherFacts(
        measured=measured,
        expected=teacher.expected,
        tolerance=teacher.tolerance,
        source=teacher.source,
        mismatch_allowed=wrong,
    )


def note_training(folder: Path, model: str, dataset: str, recipe: str) -> None:
    """Enter a teacher that is to be trained by `recipe` in the user's own list, `folder/teachers.toml`.

    Raises:
        UsageError: there is no such recipe.
    """
    load_recipe(recipe)
    own = folder / "teachers.toml"
    text = own.read_text() if own.is_file() else ""
    table = f'[[teachers]]\nmodel = "{model}"\ndataset = "{dataset}"\ntrain = "{recipe}"\n'
    write_atomic(own, (text + table).encode())

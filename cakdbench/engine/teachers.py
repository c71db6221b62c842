"""Teachers: where their weights come from, and the check that they are those of the entry.

A trained teacher is a `scratch` run whose student is the teacher's model: it has the lock, the checkpoints and
the record of any other run, and lives in the same store. The student of any other finished run teaches by the name
`run:KEY`. Several teachers by one name, `swin_t+convnext_t`, are one network that gives the mean of their logits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from cakdbench.data.datasets import ImageDataset, check_dataset
from cakdbench.data.holdout import whole_name
from cakdbench.engine.inits import Inits
from cakdbench.engine.run_teachers import find_run, is_tested_otherwise, run_entry
from cakdbench.engine.weight_files import WeightFiles
from cakdbench.grid.pairs import RUN, Pair, split_teachers
from cakdbench.grid.plan import ALWAYS, Cell, Settings
from cakdbench.grid.teacher_file import own_files, put_entry
from cakdbench.grid.teachers import TeacherEntry, load_teachers, zoo_model
from cakdbench.models.catalog import entry as model_entry
from cakdbench.models.checkpoints import read_checkpoint
from cakdbench.models.ensemble import join
from cakdbench.models.staged import StagedModel, meta_model
from cakdbench.models.weights import load_weights, state_sha256, weights_sha256
from cakdbench.recipes import Recipe, load_recipe
from cakdbench.records import Identity, Statistics, TeacherIdentity
from cakdbench.registry import get_method
from cakdbench.source_hash import model_source
from cakdbench.store import RunFolder, Store
from cakdbench.utils.diff import changes
from cakdbench.utils.errors import TeacherError, UsageError, WeightsError


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
    """Finds, trains and loads teachers by (model, dataset); in the place of a model stands `run:KEY`, too.

    Entries of the user's own win over the registry's: those of `teachers.toml` in the store, then those of `extra`.

    Args:
        folder: where weight files lie, or are downloaded to.
        extra: TOML files with entries.
        precision: that teachers are trained in, where their entries say nothing else.
        download: fetch weights that are not at hand.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        settings: Settings,
        extra: list[Path] | None = None,
        precision: str = "fp32",
        download: bool = True,
    ):
        self.store = store
        self.files = WeightFiles(folder, download)
        self.settings = settings
        self.precision = precision
        self._hashes: dict[tuple[str, str, int], str] = {}
        self.registry = load_teachers()
        self.entries = load_teachers(own_files(store.root, extra or []))
        self.inits = Inits(store, precision, self.entries)

    def entry(self, model: str, dataset: str) -> TeacherEntry:
        """Return a teacher's entry.

        Raises:
            UsageError: there is none, or it names what does not exist.
        """
        if model.startswith(RUN):
            return run_entry(self.store, model, dataset)
        dataset = whole_name(dataset)
        try:
            return self.entries[model, dataset]
        except KeyError:
            check_dataset(dataset)
            model_entry(zoo_model(model))
            others = [data for name, data in self.entries if name == model]
            known = f" (it has entries for {', '.join(others)})" if others else ""
            raise UsageError(
                f"no teacher {model} for {dataset}{known}: train one with `cakdbench teacher train {model}@{dataset} "
                "--recipe RECIPE`, or give an entry with the path of its weights in a file (--teachers FILE)"
            ) from None

    def is_standard(self, model: str, dataset: str) -> bool:
        """Return True if it is made as the registry says; what that does not have is as good, unless it is a run."""
        if model.startswith(RUN):
            return False
        entry, name = self.entry(model, dataset), (model, whole_name(dataset))
        changed = entry.train is not None and bool(self.settings.teacher)
        return not changed and (name not in self.registry or self.registry[name] == entry)

    def training_cell(self, model: str, dataset: str) -> Cell | None:
        """Return the run that makes a teacher; None for one whose weights come from elsewhere."""
        return self._as_entered(self.entry(model, dataset), self.settings.teacher)

    def new_cell(self, model: str, dataset: str, recipe: str | None, seed: int | None) -> Cell | None:
        """Return the run that trains a teacher anew; None for one whose weights come from elsewhere.

        Args:
            recipe: a name, or the path of a file; None for its entry's. `Settings` of recipe and teacher change it.
            seed: None for its entry's.

        Raises:
            UsageError: there is no such model, dataset or recipe.
        """
        check_dataset(dataset)
        if recipe:
            load_recipe(recipe)
            entry = TeacherEntry(model=model, dataset=dataset, train=recipe)
        else:
            entry = self.entry(model, dataset)
        model_entry(entry.zoo_model)
        if not entry.train:
            return None
        changed = entry.training_recipe().override(self.settings.recipe | self.settings.teacher)
        self._must_train_in(entry)
        return self._scratch(entry, changed, entry.seed if seed is None else seed, self.precision)

    def _as_entered(self, entry: TeacherEntry, changed: Mapping[str, Any] = {}) -> Cell | None:
        """Return the run that an entry says, with changed numbers of its recipe; None without training."""
        if entry.train is None:
            return None
        recipe = entry.training_recipe().override(changed)
        return self._scratch(entry, recipe, entry.seed, entry.precision or self.precision)

    def _place(self, cell: Cell, dataset: ImageDataset) -> tuple[Identity, RunFolder]:
        """Return what a teacher's training is, and its folder."""
        identity = cell.identity(dataset, None, self.inits.key(cell.recipe, cell.seed))
        return identity, self.store.run(identity)

    @staticmethod
    def _scratch(entry: TeacherEntry, recipe: Recipe, seed: int, precision: str) -> Cell:
        scratch = get_method(ALWAYS[0])
        pair = Pair(entry.zoo_model, entry.zoo_model, entry.dataset)
        return Cell(scratch, scratch.id, scratch.Config(), pair, recipe, seed, precision)

    def enter(self, model: str, cell: Cell, dataset: ImageDataset, path: Path) -> list[str]:
        """Write a trained teacher's entry into a file, if it is not made as its entry says already.

        Returns:
            The numbers in which it differs from its entry of before; empty if nothing was written or it had none.
        """
        before = self.entries.get((model, cell.pair.dataset))
        known = self._as_entered(before) if before else None
        identity, made = self._place(cell, dataset)
        if known and self._place(known, dataset)[1].key == made.key:
            return []
        entry = TeacherEntry(
            model=model,
            dataset=cell.pair.dataset,
            train=cell.recipe.name,
            recipe=identity.recipe,
            seed=cell.seed,
            precision=cell.precision,
            sha256=made.record().weights_sha256,
        )
        with FileLock(self.store.root / ".teachers.lock"):
            put_entry(path, entry)
        self.entries[model, cell.pair.dataset] = entry
        return changes(cell.recipe.numbers(), known.recipe.numbers(), "recipe") if known else []

    def must_be_here(self, model: str, dataset: str) -> None:
        """Raise TeacherError for a teacher whose entry names its weights, when a run would have to train others."""
        entry, dataset = self.entry(model, dataset), whole_name(dataset)
        if entry.sha256 and not self.settings.teacher:
            raise TeacherError(
                f"the weights {entry.sha256[:16]}... of {model}@{dataset} are not in {self.store.root}: train it with "
                f"`cakdbench teacher train {model}@{dataset}`, or copy its run folder there"
            )
        self._must_train_in(entry)

    def _must_train_in(self, entry: TeacherEntry) -> None:
        """Raise TeacherError for an entry of another precision than the one that this process computes in."""
        if entry.precision not in (None, self.precision):
            raise TeacherError(
                f"the entry of {entry.model}@{entry.dataset} has the precision {entry.precision}, and this command "
                f"computes in {self.precision}: train it with `cakdbench teacher train {entry.model}@{entry.dataset} "
                f"--precision {entry.precision}`"
            )

    def run(self, model: str, dataset: ImageDataset) -> RunFolder | None:
        """Return the run folder of a trained teacher, finished or not; None for one from elsewhere."""
        if key := self.entry(model, dataset.name).run:
            return find_run(self.store, key)
        cell = self.training_cell(model, dataset.name)
        return None if cell is None else self._place(cell, dataset.whole or dataset)[1]

    def identity(self, model: str, dataset: ImageDataset, recipe: Recipe) -> TeacherIdentity:
        """Return the part of a run's key that is the teacher's; a trained one must have been trained."""
        return TeacherIdentity.join([self._identity(name, dataset, recipe) for name in split_teachers(model)])

    def _identity(self, model: str, dataset: ImageDataset, recipe: Recipe) -> TeacherIdentity:
        run = self.run(model, dataset)
        name = model, dataset.name, recipe.image_size
        if run is None and name not in self._hashes:
            self._hashes[name] = self.load(model, dataset, recipe).sha256
        sha256 = run.record().weights_sha256 if run else self._hashes[name]
        entry = self.entry(model, dataset.name)
        return TeacherIdentity(
            model=entry.model if entry.run else model,
            sha256=sha256,
            statistics=self._statistics(model, dataset, recipe),
            image_size=None if entry.image_size == recipe.image_size else entry.image_size,
            source=model_source(entry.zoo_model),
        )

    def _statistics(self, model: str, dataset: ImageDataset, recipe: Recipe) -> Statistics | None:
        return self.entry(model, dataset.name).statistics_beside((dataset.mean, dataset.std), recipe)

    def shapes(self, model: str, dataset: ImageDataset, recipe: Recipe) -> StagedModel:
        """Return the teacher as `load` does, but without content, on torch's meta device."""
        entries = [self.entry(name, dataset.name) for name in split_teachers(model)]
        form = dataset.num_classes, recipe.split
        models = (meta_model(e.zoo_model, form[0], e.image_size or recipe.image_size, form[1]) for e in entries)
        return join(models).requires_grad_(False).eval()

    def load(self, model: str, dataset: ImageDataset, recipe: Recipe) -> Teacher:
        """Return the teacher with its weights, fed with images normalised as in its training or as `recipe` says.

        Raises:
            TeacherError: weights missing, damaged, or of another model or dataset.
        """
        teachers = [self._load(name, dataset, recipe) for name in split_teachers(model)]
        return teachers[0] if len(teachers) == 1 else _joined(teachers)

    def _load(self, model: str, dataset: ImageDataset, recipe: Recipe) -> Teacher:
        entry = self.entry(model, dataset.name)
        self.files.check_hub(entry, dataset.num_classes)
        net = StagedModel(
            entry.zoo_model,
            dataset.num_classes,
            entry.image_size or recipe.image_size,
            pretrained=entry.hub or False,
            split=recipe.split,
        )
        net.resizes = entry.image_size is not None
        try:
            sha256, expected, averaged = self._fill(net, model, dataset)
        except TeacherError:
            raise
        except WeightsError as error:
            raise TeacherError(f"the teacher {model} on {dataset.name}: {error}") from error
        if entry.sha256 not in (None, sha256) and not (entry.train and self.settings.teacher):
            raise TeacherError(
                f"the teacher {model} on {dataset.name} ({entry.source}) has the weights {sha256}, its entry says "
                f"{entry.sha256}: bring those, or put the new sha256 into the entry"
            )
        if dataset.whole and entry.dataset != dataset.name:
            expected = None  # is of the test set, and which images were held out the teacher may have learned
        statistics = self._statistics(model, dataset, recipe)
        if statistics:
            net.expect_input((dataset.mean, dataset.std), statistics)
        net.requires_grad_(False).eval()
        if entry.run and is_tested_otherwise(find_run(self.store, entry.run), recipe):
            expected = None
        standard = self.is_standard(model, dataset.name)
        return Teacher(net, sha256, entry.source + averaged, expected, entry.allowed, standard)

    def _fill(self, net: StagedModel, model: str, dataset: ImageDataset) -> tuple[str, float | None, str]:
        """Load the weights; a hub's are in the net already.

        Returns:
            Their hash, the accuracy they should reach, and a note where a file's averaged weights were taken.
        """
        entry = self.entry(model, dataset.name)
        if entry.train or entry.run:
            return *self._trained(net, model, dataset), ""
        note = self.files.fill(net, entry, dataset)
        return weights_sha256(net), entry.accuracy, note

    def _trained(self, net: StagedModel, model: str, dataset: ImageDataset) -> tuple[str, float]:
        run = self.run(model, dataset)
        assert run is not None, f"the entry of {model} says by which run it is made"
        record, state = run.record(), read_checkpoint(run.student).state
        if state_sha256(state) != record.weights_sha256:
            raise TeacherError(
                f"the weights in {run.student} are not those of its record; delete the folder {run.path} "
                "and run the same command again: the teacher is trained anew"
            )
        load_weights(net, state)
        return record.weights_sha256, record.result.top1


def _joined(teachers: list[Teacher]) -> Teacher:
    """Return several teachers as one; what is expected is expected of each."""
    return Teacher(
        join(teacher.model for teacher in teachers).requires_grad_(False).eval(),
        TeacherIdentity.join([TeacherIdentity(model="", sha256=teacher.sha256) for teacher in teachers]).sha256,
        " + ".join(teacher.source for teacher in teachers),
        None,
        max(teacher.tolerance for teacher in teachers),
        all(teacher.standard for teacher in teachers),
    )

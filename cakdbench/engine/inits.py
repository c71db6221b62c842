"""Where students start: random weights, the hub's, those of a file or of a finished run."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from cakdbench.engine.run_names import finished_run
from cakdbench.grid.pairs import RUN
from cakdbench.grid.teachers import TeacherEntry
from cakdbench.models.catalog import entry as model_entry
from cakdbench.models.catalog import hub_weights_are_here
from cakdbench.models.checkpoints import read_checkpoint
from cakdbench.models.staged import StagedModel
from cakdbench.models.weights import load_weights, state_sha256
from cakdbench.recipes import Recipe
from cakdbench.store import RunFolder, Store
from cakdbench.utils.errors import UsageError, WeightsError
from cakdbench.utils.rng import seeded

BY_NAME = ("random", "hub")
"""Inits that a key has as they are written; of the others it has the content."""


def hub_at_hand(name: str) -> None:
    """Check, without fetching any, that the hub weights of a student are in this machine's cache.

    Raises:
        WeightsError: they are not, or there are none.
    """
    tag = model_entry(name).hub
    if not (tag and hub_weights_are_here(tag)):
        reason = f"the weights {tag} of timm's hub are not here yet: a run downloads them" if tag else "it has none"
        raise WeightsError(f"the student {name} cannot start from hub: {reason}")


class Inits:
    """Makes students with the weights that a recipe's `init` names; each file is read once.

    Args:
        precision: of the runs that it names by METHOD:PAIR.
        entries: of the teachers that such pairs name.
    """

    def __init__(self, store: Store, precision: str = "fp32", entries: Mapping[tuple[str, str], TeacherEntry] = {}):
        self.store = store
        self.precision = precision
        self.entries = entries
        self._states: dict[Path, tuple[dict[str, Tensor], str]] = {}

    def key(self, recipe: Recipe, seed: int) -> str:
        """Return what a run's key has of the init: of a file or a run the sha256 of its tensors.

        Raises:
            WeightsError: there is no such file or run, or the run's weights are damaged.
        """
        if recipe.init in BY_NAME or recipe.init.startswith("sha256:"):
            return recipe.init
        return f"sha256:{self._state(recipe.init, seed)[1]}"

    def student(self, name: str, num_classes: int, recipe: Recipe, seed: int) -> StagedModel:
        """Return a new student; what is random in it depends on seed and name alone.

        Raises:
            WeightsError: the weights cannot be had or are of another network; says so of the student.
        """
        hub = recipe.init == "hub"
        try:
            with seeded(seed, "student", name):
                student = StagedModel(
                    name,
                    num_classes,
                    recipe.image_size,
                    pretrained=hub,
                    drop_path=recipe.drop_path,
                    split=recipe.split,
                )
            if recipe.init not in BY_NAME:
                state, _ = self._state(recipe.init, seed)
                hint = "--set recipe.init_head=new begins a new head"
                load_weights(student, state, recipe.init_head == "new", hint)
        except WeightsError as error:
            raise WeightsError(f"the student {name} cannot start from {recipe.init}: {error}") from error
        return student

    def _state(self, init: str, seed: int) -> tuple[dict[str, Tensor], str]:
        """Return the tensors that an init names, and their sha256."""
        kind, _, name = init.partition(":")
        if kind == "sha256":
            raise WeightsError("the key of a run says what it started from, not where that lies: name a file or a run")
        run = None if kind == "file" else self._run(name, seed)
        path = run.student if run else Path(name).expanduser()
        if path not in self._states:
            state = read_checkpoint(path).state
            self._states[path] = state, state_sha256(state)
        if run and self._states[path][1] != run.record().weights_sha256:
            raise WeightsError(
                f"the weights in {path} are not those of its record: `cakdbench fsck --repair` sets the run aside, and "
                "the command that made it computes it again"
            )
        return self._states[path]

    def _run(self, name: str, seed: int) -> RunFolder:
        """Return the finished run of a key, the beginning of one, or METHOD:PAIR; of the latter that of the seed."""
        try:
            return finished_run(self.store, f"{RUN}{name}", seed, self.precision, self.entries)
        except UsageError as error:
            raise WeightsError(f"{error}; see `cakdbench status`") from None

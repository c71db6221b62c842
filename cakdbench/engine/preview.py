"""Describe a plan before anything starts: states, teachers to train, obstacles."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cakdbench.data.datasets import ImageDataset
from cakdbench.data.stream import check_batches
from cakdbench.engine.harness import Harness
from cakdbench.engine.inits import hub_at_hand
from cakdbench.grid.plan import Cell
from cakdbench.records import Identity
from cakdbench.store import canonical, checkpoint_step
from cakdbench.utils.errors import CakdError, StoreError, UsageError


@dataclass
class Preview:
    """A plan as it stands.

    Attributes:
        states: the cells with the states of their runs; "planned" also where a key hangs on what is missing.
        trainings: runs of teachers that come first.
        obstacles: missing data and teachers, batches that do not fit: what would stop the run.
    """

    states: list[tuple[Cell, str]] = field(default_factory=list)
    trainings: list[Cell] = field(default_factory=list)
    obstacles: list[CakdError] = field(default_factory=list)

    def obstruct(self, error: CakdError) -> None:
        """Note an obstacle, once."""
        if str(error) not in map(str, self.obstacles):
            self.obstacles.append(error)

    @property
    def left(self) -> list[Cell]:
        """Return what has to be computed, teachers first."""
        return self.trainings + [cell for cell, state in self.states if state != "done"]

    @property
    def parts(self) -> int:
        """Count the processes that the work can keep busy, in the teachers' or the students' phase."""
        return max(len(self.trainings), sum(state != "done" for _, state in self.states))


def make_preview(harness: Harness, cells: list[Cell]) -> Preview:
    """Find out about data and teachers once each, then about every run."""
    preview = Preview()
    once = {(cell.pair.dataset, cell.recipe): cell for cell in cells}
    data = {name: _data(harness, cell, preview) for name, cell in once.items()}
    for cell in {(cell.pair.student, cell.pair.dataset, cell.recipe, cell.seed): cell for cell in cells}.values():
        where = cell.pair.dataset, cell.recipe
        if not _starts_by_itself(cell) and data[where] and not _student(harness, cell, preview):
            data[where] = None
    pupils = {name: cell for cell in cells for name in _teachers(cell)}
    ready: dict[tuple[str, str], bool] = {}
    for (name, dataset), cell in pupils.items():
        look = _teacher if data[dataset, cell.recipe] else _teacher_alone
        ready[name, dataset] = look(harness, name, cell, preview)
    at_hand = [bool(data[cell.pair.dataset, cell.recipe]) for cell in cells]
    grounded = [
        harness.ground(cell) if here and _is_taught(cell, ready) else None for cell, here in zip(cells, at_hand)
    ]
    known_cells = [known or cell for cell, known, here in zip(cells, grounded, at_hand) if here]
    _refuse_changed_data(
        harness, [*known_cells, *preview.trainings], {name: ds for (name, _), ds in data.items() if ds}, preview
    )
    for cell, known in zip(cells, grounded):
        preview.states.append((cell, harness.tasks([known])[0].folder.state() if known else "planned"))
    return preview


def _starts_by_itself(cell: Cell) -> bool:
    """Return True for a student of random weights, or of a run that comes before it in the plan."""
    return cell.recipe.init == "random" or cell.recipe.init in dict(cell.links)


def _teachers(cell: Cell) -> list[tuple[str, str]]:
    """Return the teachers of a cell that are no runs of the plan, by model and dataset."""
    names = cell.pair.teachers if cell.needs_teacher else ()
    return [(name, cell.pair.dataset) for name in names if name not in dict(cell.links)]


def _is_taught(cell: Cell, ready: Mapping[tuple[str, str], bool]) -> bool:
    """Return True if the teachers of a cell, and of all runs that come before it, are at hand."""
    return all(ready[name] for name in _teachers(cell)) and all(_is_taught(link, ready) for _, link in cell.links)


def _data(harness: Harness, cell: Cell, preview: Preview) -> ImageDataset | None:
    """Return the cell's data if they are there and its batches fit; else note the obstacle."""
    try:
        dataset = harness.dataset(cell.pair.dataset)
        check_batches(dataset, cell.recipe, harness.accelerator.num_processes)
    except CakdError as error:
        preview.obstruct(error)
        return None
    return dataset


def _refuse_changed_data(harness: Harness, cells: list[Cell], data: dict[str, ImageDataset], preview: Preview) -> None:
    """Note the unfinished runs of these cells that began on other images under the same names."""
    known = [cell for cell in cells if cell.pair.dataset in data and cell.recipe.init not in dict(cell.links)]
    inits = [harness.inits.key(cell.recipe, cell.seed) for cell in known]
    identities = [cell.identity(data[cell.pair.dataset], None, init) for cell, init in zip(known, inits)]
    current = {_but_for_data(identity): identity for identity in identities}
    for run in harness.store.runs():
        try:
            if run.is_done or not checkpoint_step(run.checkpoints):
                continue
            begun = run.identity()
        except StoreError:  # damaged, and written anew when the run goes on
            continue
        now = current.get(_but_for_data(begun))
        if now and now.dataset.fingerprint != begun.dataset.fingerprint:
            name, place = now.dataset.name, run.path
            reason = f"the images of {name} have changed since the unfinished run {run.key} began"
            preview.obstruct(UsageError(f"{reason}: put the old ones back to go on, or remove {place} to begin anew"))


def _but_for_data(identity: Identity) -> str:
    """Return what stays of an identity when images are exchanged, and with them perhaps a teacher trained on them."""
    dataset = identity.dataset.model_copy(update={"fingerprint": ""})
    return canonical(identity.model_copy(update={"dataset": dataset, "teacher": None}))


def _student(harness: Harness, cell: Cell, preview: Preview) -> bool:
    """Return True if the weights that the cell's student starts from can be had and fit; else note the obstacle."""
    try:
        if cell.recipe.init == "hub" and not harness.runtime.options.download:
            hub_at_hand(cell.pair.student)  # a dry run fetches nothing
            return True
        classes = harness.dataset(cell.pair.dataset).num_classes
        harness.inits.student(cell.pair.student, classes, cell.recipe, cell.seed)
    except CakdError as error:
        preview.obstruct(error)
        return False
    return True


def _teacher(harness: Harness, name: str, cell: Cell, preview: Preview) -> bool:
    """Return True if a teacher of the cell is at hand; one that has to be trained joins the trainings."""
    try:
        training = harness.teachers.training_cell(name, cell.pair.dataset)
        dataset = harness.dataset(cell.pair.dataset)
        run = harness.teachers.run(name, dataset)
        if training and run and not run.is_done:
            check_batches(dataset, training.recipe, harness.accelerator.num_processes, "teacher")
            harness.teachers.must_be_here(name, cell.pair.dataset)
            preview.trainings.append(training)
            return False
        harness.teachers.identity(name, dataset, cell.recipe)
    except StoreError:
        return False  # a damaged record of the teacher: it is set aside and trained again
    except CakdError as error:
        preview.obstruct(error)
        return False
    return True


def _teacher_alone(harness: Harness, name: str, cell: Cell, preview: Preview) -> bool:
    """Look for a teacher of the cell where the data are missing: its entry, and the file of its weights.

    Return False: without data no run has a key yet. A teacher that is trained joins the trainings, since whether it
    has been trained cannot be told either. Weights of timm's hub are not looked for: that would load them.
    """
    try:
        training = harness.teachers.training_cell(name, cell.pair.dataset)
        entry = harness.teachers.entry(name, cell.pair.dataset)
        if training:
            preview.trainings.append(training)
        elif not (entry.hub or entry.run):
            harness.teachers.files.fetch(entry)
    except CakdError as error:
        preview.obstruct(error)
    return False

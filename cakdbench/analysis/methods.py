"""Put the method of a finished run together again: its student, the modules kept beside it, and its teacher."""

import torch

from cakdbench.build import build_method
from cakdbench.data.splits import ImageDataset
from cakdbench.engine.teachers import Teachers
from cakdbench.grid.teachers import teaching_runs
from cakdbench.method import Method
from cakdbench.models.ensemble import join
from cakdbench.models.staged import StagedModel
from cakdbench.recipes import Recipe
from cakdbench.records import Record, TeacherIdentity
from cakdbench.registry import all_settings, get_method, resolve_config
from cakdbench.store import RunFolder, Store
from cakdbench.students.student import Student
from cakdbench.students.weights import module_state, read_weights
from cakdbench.utils.errors import StoreError, UsageError


def open_method(run: RunFolder, student: Student, dataset: ImageDataset, teachers: Teachers) -> Method:
    """Return the method of a run that kept its modules, on the CPU and in eval mode.

    Raises:
        UsageError: the modules were not kept, the method is not known, or its teacher is not at hand.
        TeacherError: the teacher's weights are missing.
        StoreError: the modules do not fit the method.
    """
    kind, identity = get_method(student.record.identity.method.id), student.record.identity
    teacher = _teacher(student, dataset, teachers) if identity.teacher else None
    infos = (teacher or student.model).info, student.model.info
    config = resolve_config(kind, None, *infos, dataset.name, all_settings(kind, identity.method.config))
    method = build_method(kind, student.model, teacher, config, labels=torch.from_numpy(dataset.train.labels))
    _load(method, run)
    return method.eval()


def _teacher(student: Student, dataset: ImageDataset, teachers: Teachers) -> StagedModel:
    """Return the teacher of a run: of the training that made its weights, else as its entry has it; of several all."""
    teacher, facts = student.record.identity.teacher, student.record.teacher
    assert teacher is not None and facts is not None, "the caller asks for a run that had a teacher"
    taught = teacher.several or (teacher,)
    made = {record.weights_sha256: record for record in teachers.store.records()[0]}
    runs = teaching_runs(facts.source, len(taught))
    models = []
    for each, run in zip(taught, runs):
        if each.sha256 in made:
            models.append(_trained(made[each.sha256], each, student.recipe, dataset, teachers.store))
        elif run:
            place = teachers.store.root
            raise UsageError(f"{student.record.key} was taught by the run {run}: bring its folder to {place}")
        else:
            models.append(_loaded(student, each, dataset, teachers))
    return join(models).eval()


def _loaded(student: Student, taught: TeacherIdentity, dataset: ImageDataset, teachers: Teachers) -> StagedModel:
    """Return a teacher as its entry has it, if that still is the one that taught."""
    teacher = teachers.load(taught.model, dataset, student.recipe)
    if teacher.sha256 != taught.sha256:
        raise UsageError(
            f"{student.record.key} was taught by {taught.model} with the weights {taught.sha256[:16]}, and the one "
            f"at hand has {teacher.sha256[:16]}: bring those"
        )
    return teacher.model


def _trained(made: Record, taught: TeacherIdentity, recipe: Recipe, dataset: ImageDataset, store: Store) -> StagedModel:
    """Return the student of the run that made a teacher's weights, fed as the teacher was."""
    size = taught.image_size or recipe.image_size
    model = StagedModel(made.identity.student, dataset.num_classes, size, split=recipe.split)
    run = store.find(made.key)
    run.check_weights(run.student)
    model.load_exported(dict(read_weights(run.student)[0]))
    model.resizes = taught.image_size is not None
    if taught.statistics:
        model.expect_input((dataset.mean, dataset.std), taught.statistics)
    return model.eval()


def _load(method: Method, run: RunFolder) -> None:
    """Load what the run kept; the student has its weights already."""
    own = module_state(method).keys()
    if not own:
        return
    if not run.modules.is_file():
        raise UsageError(f"{run.key}: its modules were not kept; remove {run.path} and run it with --keep modules")
    run.check_weights(run.modules)
    state = dict(read_weights(run.modules)[0])
    if differing := sorted(state.keys() ^ own):
        raise StoreError(f"{run.modules} is not of today's {method.id}: {differing[0]} is in one of the two alone")
    method.load_state_dict(state, strict=False)

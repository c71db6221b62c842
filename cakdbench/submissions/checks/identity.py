"""Check that an entry is where and what it says it is, of data, a recipe and a seed that exist."""

import functools
import re
from collections.abc import Iterator

from cakdbench.data.shipped import SHIPPED
from cakdbench.grid.teachers import zoo_model
from cakdbench.recipes import load_recipe, recipe_names
from cakdbench.records import ENGINE_VERSION
from cakdbench.source_hash import model_source
from cakdbench.store import run_key
from cakdbench.submissions.checks.case import Case
from cakdbench.submissions.findings import Problem
from cakdbench.submissions.normal import SHA256
from cakdbench.utils.diff import changes, exact_text

_FORBIDDEN = re.compile(r"[<>|`\\]")


def check_place(case: Case) -> Iterator[Problem]:
    """Check that the key is the identity's hash and the file's name; the folder is the method."""
    record, place = case.record, case.entry.place
    key = run_key(case.identity)
    if key != record.key:
        yield Problem(f"its key is {record.key[:120]} and its identity's is {key[:120]}: one was changed")
    if case.entry.file != place:
        yield Problem("its folder and name are not those of its method and key", f"name it {place[:250]}")
    if case.identity.engine_version != ENGINE_VERSION:
        what = f"was computed by version {case.identity.engine_version} of the engine, which now is {ENGINE_VERSION}"
        yield Problem(what, "run it again with the present version", note=case.accepted)


def check_text(case: Case) -> Iterator[Problem]:
    """Check that nothing that a board prints can break a page."""
    record, identity = case.record, case.identity
    texts = {
        "recipe_name": record.recipe_name,
        "method.id": identity.method.id,
        "label": record.label,
        "student": identity.student,
        "dataset.name": identity.dataset.name,
        "teacher.model": identity.teacher.model if identity.teacher else "",
        "teacher.source": record.teacher.source if record.teacher else "",
        "conditions.device": record.conditions.device,
        **{f"versions.{name}": f"{name} {version}" for name, version in record.conditions.versions.items()},
        **{f"networks.{name}": name for name in record.result.networks or {}},
        **{f"class_names.{place}": name for place, name in enumerate(record.class_names or ())},
    }
    if not case.entry.entry.submitted_by.strip():
        yield Problem("does not say who submits it")
    for name, text in texts.items():
        if _FORBIDDEN.search(text) or len(text) > 200:
            yield Problem(f"{name[:60]} holds characters that are not allowed, or is too long")


def check_hashes(case: Case) -> Iterator[Problem]:
    """Check that every hash is one."""
    hashes = {
        "predictions_sha256": case.record.predictions_sha256,
        "weights_sha256": case.record.weights_sha256,
        "method_source": case.record.method_source,
        "dataset.fingerprint": case.identity.dataset.fingerprint,
    }
    if case.identity.teacher:
        hashes["teacher.sha256"] = case.identity.teacher.sha256
    for name, value in hashes.items():
        if not SHA256.fullmatch(value):
            yield Problem(f"invalid {name}: it is no sha256")


def check_data(case: Case) -> Iterator[Problem]:
    """Pass on the problems that opening the case met: something unknown or out of bounds; note unknown data."""
    yield from case.problems
    data = case.identity.dataset
    if case.facts is not None and case.record.class_names is not None:
        yield Problem(f"names the classes of {data.name[:100]}, which comes with them")
    if case.labels is None and not case.problems:
        what = f"nothing here knows the test labels of {data.name[:100]} with the fingerprint {data.fingerprint[:16]}"
        yield Problem(what, "not re-scored: the receiving side needs the dataset (--data-dir)", note=True)
    if data.skipped is not None and data.name in SHIPPED and SHIPPED[data.name].fingerprint == data.fingerprint:
        yield Problem(f"says that {data.skipped} images were left out, and its data has all of them")


def check_networks(case: Case) -> Iterator[Problem]:
    """Check that networks of one's own, and no others, are known by their code."""
    teacher = case.identity.teacher
    networks = {"student": (case.student, case.identity.student, case.identity.student_source)}
    for number, each in enumerate((teacher.several or (teacher,)) if teacher else ()):
        networks[f"teacher {number + 1}" if number else "teacher"] = case.teacher, zoo_model(each.model), each.source
    for role, (model, name, source) in networks.items():
        if model is not None and source != (known := model_source(name)):
            of = f"the code {source[:16]}" if source else "no code"
            yield Problem(f"its {role} {name[:100]} has {of}, here it is {known[:16] if known else 'one of cakdbench'}")


def check_recipe(case: Case) -> Iterator[Problem]:
    """Check that the recipe's name is known; numbers that are not its own are named."""
    name = case.record.recipe_name
    if name not in recipe_names():
        yield Problem(f"the recipe {name[:100]} is unknown", "add it under pairs/recipes first")
        return
    if (names := _names_of(exact_text(case.identity.recipe))) and name not in names:
        yield Problem(f"its recipe is named {name} and has the numbers of {', '.join(names)}")
    for change in changes(case.record.recipe, load_recipe(name).numbers(), "recipe"):
        yield Problem(f"changed settings: {change[:200]}", "boards set it aside", note=True)


@functools.lru_cache(maxsize=256)
def _names_of(numbers: str) -> list[str]:
    """Return the recipes that have these numbers, written as in a key."""
    return [name for name in recipe_names() if exact_text(load_recipe(name).identity()) == numbers]


def check_seed(case: Case) -> Iterator[Problem]:
    if not 0 <= case.identity.seed < 2**31:
        yield Problem(f"the seed {case.identity.seed} is out of range")

"""The normal form of an identity: one run has one spelling, and so one key."""

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cakdbench.recipes import Recipe, all_numbers
from cakdbench.records import Identity, TeacherIdentity
from cakdbench.store import plain_values
from cakdbench.submissions.findings import Refused
from cakdbench.utils.diff import exact_text
from cakdbench.utils.errors import UsageError
from cakdbench.utils.toml import checked

SHA256 = re.compile(r"[0-9a-f]{64}")
MOST_TEACHERS = 9
"""Teachers of one student at once that are looked into."""
LARGEST_IMAGE, LONGEST_TRAINING = 1024, 10_000
"""Pixels and epochs of a recipe that is still looked into."""


def check_normal(raw: Any, identity: Identity) -> None:
    """Compare an identity as a file has it with the same as a key is made of it, types of numbers included.

    Raises:
        Refused: it is written in another way, which would give one run two keys.
    """
    written = exact_text(raw)
    if not written == exact_text(plain_values(raw)) == exact_text(identity.model_dump(mode="json", exclude_unset=True)):
        raise Refused("its identity is written in another way than in a key: a number of another type, or -0.0")
    if odd := next(_odd_fields(identity), None):
        raise Refused(f"its identity is written in another way than in a key: {odd}")


def _odd_fields(identity: Identity) -> Iterator[str]:
    """Yield the fields that may be absent and are there without saying anything, or anything that is right."""
    teacher = identity.teacher
    sources = {"method.source": identity.method.source, "student_source": identity.student_source}
    sources |= {"teacher.source": teacher.source} if teacher else {}
    for each in (teacher.several or ()) if teacher else ():
        sources[f"teacher.source of {each.model[:60]}"] = each.source
        if each.image_size is not None and each.image_size == identity.recipe.get("image_size"):
            yield f"image_size of {each.model[:60]} is that of the recipe"
    yield from (f"{name} is no sha256" for name, value in sources.items() if value and not SHA256.fullmatch(value))
    yield from (f"{name} is empty" for name, value in sources.items() if value == "")
    if identity.dataset.skipped is not None and identity.dataset.skipped < 1:
        yield f"dataset.skipped is {identity.dataset.skipped}"
    if teacher and teacher.several is not None and not _are_joined(teacher, teacher.several):
        yield "its teacher is not what teacher.several joins"
    if teacher and teacher.image_size is not None and teacher.image_size == identity.recipe.get("image_size"):
        yield "teacher.image_size is that of the recipe"


def _are_joined(teacher: TeacherIdentity, several: Sequence[TeacherIdentity]) -> bool:
    plain = all(SHA256.fullmatch(each.sha256) and each.several is None for each in several)
    return plain and 2 <= len(several) <= MOST_TEACHERS and teacher == TeacherIdentity.join(several)


def read_recipe(name: str, numbers: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a record.

    Raises:
        Refused: its numbers are not those of a recipe, not written as in a key, or out of all bounds.
    """
    return _recipe(name, exact_text(numbers))


@functools.lru_cache(maxsize=256)
def _recipe(name: str, text: str) -> Recipe:
    try:
        recipe = checked(Recipe, {**all_numbers(json.loads(text)), "name": name, "title": "-", "source": "-"}, "recipe")
    except UsageError as error:
        raise Refused(f"invalid recipe: {str(error)[:300]}") from error
    if exact_text(recipe.identity()) != text:
        raise Refused("its recipe leaves numbers out or writes them in another way")
    if recipe.image_size > LARGEST_IMAGE or recipe.epochs > LONGEST_TRAINING:
        what = f"trains {recipe.epochs} epochs at {recipe.image_size} px"
        raise Refused(what, f"at most {LONGEST_TRAINING} epochs and {LARGEST_IMAGE} px are accepted")
    return recipe

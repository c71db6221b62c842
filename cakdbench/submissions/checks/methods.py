"""Whether the method is the installed one, with the settings it has for the pair."""

from collections.abc import Iterator
from dataclasses import asdict

from cakdbench.method import Method
from cakdbench.registry import resolve_config, split_variant
from cakdbench.source_hash import source_hash
from cakdbench.submissions.checks.case import Case
from cakdbench.submissions.checks.identity import ANEW
from cakdbench.submissions.findings import Problem, Refused
from cakdbench.utils.diff import changes
from cakdbench.utils.errors import CakdError

LONGEST_VARIANT, LARGEST_SETTING = 120, 65_536


def check_method(case: Case) -> Iterator[Problem]:
    """A registered method can be checked whole; an outside one only as far as its run goes."""
    if case.method is None:
        what = f"{case.identity.method.id} is an outside method: its settings, source and costs cannot be checked"
        yield Problem(what, "maintainers install it, or validate with --method-file", note=True)


def check_settings(case: Case) -> Iterator[Problem]:
    """The settings are the pair's standard ones, or named; the method does not refuse the pair."""
    if case.method is None or case.student is None:
        return
    try:
        found, standard = configs(case)
    except CakdError as error:
        yield Problem(f"its settings are none of {case.method.id}: {str(error)[:300]}", ANEW)
        return
    given = case.identity.method.config
    if missing := changes(given, asdict(found), "settings"):
        yield Problem(f"its settings are incomplete or of another type: {missing[0][:200]}", ANEW)
    for change in changes(given, asdict(standard), case.method.id):
        yield Problem(f"changed settings: {change[:200]}", "boards set it aside", note=True)
    reason = case.method.refuses((case.teacher or case.student).info, case.student.info, found)
    if reason:
        yield Problem(f"{case.method.id} refuses this pair: {reason}", "leave the run out")


def configs(case: Case) -> tuple[Method.Config, Method.Config]:
    """The entry's settings as its method reads them, and the standard ones of the pair and the variant.

    Raises:
        UsageError: an unknown variant, or settings that are not the method's.
        Refused: a number that is out of all bounds.
    """
    identity, student = case.identity, case.student.info
    if len(identity.method.variant or "") > LONGEST_VARIANT or not _bounded(identity.method.config):
        raise Refused("a name or a number is out of all bounds", ANEW)
    method, variant = split_variant(identity.method.label)
    facts = (case.teacher or case.student).info, student, identity.dataset.name
    standard = resolve_config(method, variant, *facts)
    return resolve_config(method, variant, *facts, overrides=identity.method.config), standard


def _bounded(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_bounded, value.values()))
    if isinstance(value, list):
        return len(value) <= 1000 and all(map(_bounded, value))
    return not isinstance(value, int | float) or abs(value) <= LARGEST_SETTING


def check_source(case: Case) -> Iterator[Problem]:
    """The method's code is the installed one's; an entry that was accepted may be of an earlier one."""
    if case.method is None:
        return
    installed, found = source_hash(case.method), case.identity.method.source
    if found != installed:
        what = f"other source: {found[:16]} is not the code of the installed {case.method.id} ({installed[:16]})"
        yield Problem(what, "run it again with the code of this repository", note=case.accepted)

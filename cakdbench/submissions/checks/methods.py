"""Check that the method is the installed one, with settings that it has for the pair, and the costs those of both."""

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cakdbench.build import count_extra_parameters, refusal
from cakdbench.grid.tuned import BUDGET
from cakdbench.method import Method
from cakdbench.models.staged import ModelInfo, StagedModel
from cakdbench.registry import all_settings, canonical_label, config_identity, resolve_config
from cakdbench.source_hash import is_built_in, known_sources, source_hash
from cakdbench.submissions.checks.case import Case
from cakdbench.submissions.findings import Problem
from cakdbench.utils.diff import changes, exact_text
from cakdbench.utils.errors import RAISED, CakdError, UsageError

LARGEST_SETTING = 65_536


def check_method(case: Case) -> Iterator[Problem]:
    """Note an outside method: only a registered one can be checked whole."""
    if case.method is None:
        id, label = case.identity.method.id, case.record.label
        what = f"{id} is an outside method: its settings, source and costs cannot be checked"
        yield Problem(what, "maintainers install it, or validate with --method-file", note=True)
        if not re.fullmatch(re.escape(id) + r"(:[A-Za-z0-9_\-]+)?(\[\S(.*\S)?\])?", label):
            yield Problem(
                f"its settings are named {label[:100]}, which is no name of {id}: {id}, {id}:VARIANT or {id}[KEY=VALUE]"
            )


def check_settings(case: Case) -> Iterator[Problem]:
    """Check that the settings are written as in a key, bear their canonical name, and are not refused for the pair."""
    if case.record.tuning and case.record.tuning.trials > BUDGET:
        yield Problem(f"its settings are of {case.record.tuning.trials} trials, and {BUDGET} may be made")
    if case.method is None or case.student is None:
        return
    if case.record.result.networks is not None and case.method.evaluated is Method.evaluated:
        yield Problem(f"has accuracies of further networks, and {case.method.id} evaluates none")
    try:
        normal = read_settings(case, case.method, case.student)
    except CakdError as error:
        yield Problem(f"invalid settings of {case.method.id}: {str(error)[:300]}", "leave the run out")
        return
    settings = case.identity.method.config
    if exact_text(settings) != exact_text(normal.identity):
        wrong = (changes(settings, normal.identity, "settings") or ["a number of another type"])[0]
        yield Problem(f"its settings are incomplete or written in another way: {wrong[:200]}")
    if case.record.label != normal.label:
        yield Problem(f"its settings are named {case.record.label[:100]}, their name is {normal.label[:100]}")
    if normal.refusal:
        yield Problem(f"{case.method.id} refuses this pair: {normal.refusal}", "leave the run out")


@dataclass(frozen=True)
class Settings:
    """Settings on a pair as the installed method reads them.

    Attributes:
        identity: as a key holds them. label: their canonical name. refusal: the method's reason not to run on the pair.
    """

    config: Method.Config
    identity: Mapping[str, Any]
    label: str
    refusal: str | None


_settings: dict[tuple[object, ...], Settings] = {}


def read_settings(case: Case, method: type[Method], student: StagedModel) -> Settings:
    """Return the entry's settings as its method reads them for its student; seeds share them.

    Raises:
        UsageError: settings that are not the method's, or above what is built here.
    """
    settings = case.identity.method.config
    key = method, case.teacher, student, case.identity.dataset.name, json.dumps(settings)
    if key not in _settings:
        if not _bounded(settings):
            raise UsageError(f"a number is above {LARGEST_SETTING:,}")
        teacher, own, dataset = pair = _pair(case, student)
        config = resolve_config(method, None, *pair, overrides=all_settings(method, settings))
        label, reason = canonical_label(method, config, *pair), refusal(method, teacher, own, config)
        _settings[key] = Settings(config, config_identity(config), label, reason)
    return _settings[key]


def _pair(case: Case, student: StagedModel) -> tuple[ModelInfo, ModelInfo, str]:
    """Return what the settings of a pair depend on; a method without teacher is asked as if the student taught."""
    return (case.teacher or student).info, student.info, case.identity.dataset.name


def _bounded(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_bounded, value.values()))
    if isinstance(value, list):
        return len(value) <= 1000 and all(map(_bounded, value))
    return not isinstance(value, int | float) or abs(value) <= LARGEST_SETTING


def check_source(case: Case) -> Iterator[Problem]:
    """Check that the run computed what the installed method does; an accepted entry may be of an earlier version."""
    if case.method is None:
        return
    method, identity = case.method, case.identity.method
    if not is_built_in(method):
        yield from _other_source(case, method, identity.source or "")
    elif identity.version is None or not 1 <= identity.version <= method.version:
        yield Problem(f"it has no version of {method.id}, which now is {method.version}", note=case.accepted)
    elif identity.version < method.version:
        what = f"was computed by version {identity.version} of {method.id}, which now is {method.version}"
        yield Problem(what, "run it again", note=case.accepted)
    elif case.record.method_source not in known_sources(method.id, method.version) | {_installed_source(method)}:
        what = (
            f"its code {case.record.method_source[:16]} is none that {method.id} had here at version {method.version}"
        )
        yield Problem(what, "if it computes the same, all is well", note=True)


_sources: dict[type[Method], str] = {}


def _installed_source(method: type[Method]) -> str:
    """Return the hash of a method's code, which stays as it was loaded."""
    if method not in _sources:
        _sources[method] = source_hash(method)
    return _sources[method]


def _other_source(case: Case, method: type[Method], source: str) -> Iterator[Problem]:
    installed = _installed_source(method)
    if source != installed:
        what = f"other source: {source[:16]} is not the code of the installed {method.id} ({installed[:16]})"
        yield Problem(what, "run it again with that code", note=case.accepted)


def check_costs(case: Case) -> Iterator[Problem]:
    """Check the parameters of the student, and those the method adds, counted on models built anew."""
    method, student = case.method, case.student
    if student is None:
        return
    yield from _compared("student_parameters", case.record.student_parameters, _parameters(student))
    if method is None or (method.needs and case.teacher is None):
        return
    try:
        config = read_settings(case, method, student).config
    except CakdError:
        return  # said by check_settings
    try:
        count = _extra_parameters(method, student, case.teacher, config)
    except RAISED as error:  # the settings are a stranger's, and a method may raise anything
        yield Problem(f"{method.id} cannot be built with its settings ({str(error)[:200]})")
    else:
        yield from _compared("extra_parameters", case.record.extra_parameters, count)


@functools.lru_cache(maxsize=64)
def _parameters(model: StagedModel) -> int:
    return sum(p.numel() for p in model.parameters())


_counts: dict[tuple[object, ...], int] = {}


def _extra_parameters(
    method: type[Method], student: StagedModel, teacher: StagedModel | None, config: Method.Config
) -> int:
    """Return the count for settings; seeds share one, and building takes longer than all other checks."""
    key = method, student, teacher, repr(config)
    if key not in _counts:
        _counts[key] = count_extra_parameters(method, student, teacher, config)
    return _counts[key]


def _compared(name: str, stated: int, true: int) -> Iterator[Problem]:
    if stated != true:
        yield Problem(f"{name} is {stated:,}; built anew it is {true:,}")

"""The checks of one entry, in the order of their findings; `crossing` compares entries with each other."""

from collections.abc import Callable, Iterator

from cakdbench.submissions.checks import conditions, history, identity, methods, plausible, scores, teachers
from cakdbench.submissions.checks.case import Case
from cakdbench.submissions.findings import Problem

CHECKS: tuple[Callable[[Case], Iterator[Problem]], ...] = (
    *(identity.check_place, identity.check_text, identity.check_hashes, identity.check_data, identity.check_networks),
    *(methods.check_method, methods.check_settings, methods.check_source),
    *(identity.check_recipe, identity.check_seed),
    *(teachers.check_teacher, teachers.check_gate, teachers.check_teacher_entry),
    *(scores.check_predictions, scores.check_result, scores.check_steps, scores.check_corruptions),
    *(history.check_history, history.check_losses, history.check_rates),
    *(methods.check_costs, conditions.check_conditions, conditions.check_pace, plausible.check_plausible),
)

"""The checks of one entry, in the order of their findings; `crossing` compares entries with each other."""

from collections.abc import Callable, Iterator

from cakdbench.submissions.checks.case import Case
from cakdbench.submissions.checks.conditions import check_conditions, check_pace
from cakdbench.submissions.checks.costs import check_costs
from cakdbench.submissions.checks.history import check_history, check_losses, check_rates
from cakdbench.submissions.checks.identity import check_data, check_hashes, check_place, check_text
from cakdbench.submissions.checks.methods import check_method, check_settings, check_source
from cakdbench.submissions.checks.protocol import check_recipe, check_seed
from cakdbench.submissions.checks.scores import check_best_epoch, check_predictions, check_result, check_steps
from cakdbench.submissions.checks.teachers import check_gate, check_teacher, check_teacher_entry
from cakdbench.submissions.findings import Problem

Check = Callable[[Case], Iterator[Problem]]

CHECKS: tuple[Check, ...] = (
    check_place,
    check_text,
    check_hashes,
    check_data,
    check_method,
    check_settings,
    check_source,
    check_recipe,
    check_seed,
    check_teacher,
    check_gate,
    check_teacher_entry,
    check_predictions,
    check_result,
    check_best_epoch,
    check_steps,
    check_history,
    check_losses,
    check_rates,
    check_costs,
    check_conditions,
    check_pace,
)

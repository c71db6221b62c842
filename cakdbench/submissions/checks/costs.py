"""Check that the costs are those of the models and the method, built anew."""

from collections.abc import Iterator

from cakdbench.submissions.checks.case import Case
from cakdbench.submissions.checks.identity import ANEW
from cakdbench.submissions.checks.methods import config_of
from cakdbench.submissions.findings import Problem, Refused
from cakdbench.submissions.truth import extra_parameters, parameters
from cakdbench.utils.errors import CakdError


def check_costs(case: Case) -> Iterator[Problem]:
    """Check the parameters of the student, and those the method adds."""
    if case.student is None:
        return
    yield from _compared("student_parameters", case.record.student_parameters, parameters(case.student))
    if case.method is None or (case.method.needs and case.teacher is None):
        return
    try:
        config = config_of(case, case.method, case.student)
        count = extra_parameters(case.method, config, case.student, case.teacher)
    except Refused as error:
        yield error.problem
    except CakdError:
        return  # said by check_settings
    else:
        yield from _compared("extra_parameters", case.record.extra_parameters, count)


def _compared(name: str, stated: int, true: int) -> Iterator[Problem]:
    if stated != true:
        yield Problem(f"{name} is {stated:,}; built anew it is {true:,}", ANEW)

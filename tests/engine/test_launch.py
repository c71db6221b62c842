"""How processes of one machine share the work."""

import pytest

from cakdbench.engine.preview import Preview
from cakdbench.engine.share import Share
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import resolve_pairs
from cakdbench.store import Store


@pytest.mark.parametrize(
    ("lanes", "jobs", "share"),
    [(12, 1, 12), (12, 2, 6), (13, 2, 7), (12, 3, 4), (12, 6, 4), (3, 2, 4), (400, 2, 200)],
)
def test_no_process_takes_more_than_its_share_nor_less_than_is_worth_a_pass(lanes, jobs, share):
    assert Share(jobs).lanes(lanes) == share


@pytest.mark.parametrize(
    ("methods", "pairs", "seeds", "parts"),
    [
        ([], "resnet_m>vit_xs@fashion_demo", (0,), 1),
        (["fbt", "ofa"], "resnet_m>vit_xs@fashion_demo", (0,), 1),
        (["fbt", "ofa", "rkd"], "resnet_m>vit_xs@fashion_demo", (0,), 2),
        (["fbt", "ofa"], "demo", (0,), 3),  # resnet_m has two students
        (["fbt", "ofa"], "demo", (0, 1), 6),
    ],
)
def test_a_pass_over_the_data_is_divided_where_that_keeps_processes_busy(methods, pairs, seeds, parts):
    plan = make_plan(methods, resolve_pairs(pairs), seeds, Settings())
    assert Preview([(cell, "planned") for cell in plan.cells]).parts == parts
    assert Preview([(cell, "done") for cell in plan.cells]).parts == 0


def test_with_two_jobs_lanes_of_one_pass_go_in_two(shell):
    code, output = shell.run("--methods", "dkd,dist,lskd,rkd,cc,rsd", "--jobs", "2")
    assert code == 0, output
    begun = [line.rpartition("seed 0: ")[2].split(", ") for line in output.splitlines() if line.startswith("start: ")]
    teacher, *students = begun
    assert teacher == ["scratch"]
    assert max(map(len, students)) == 4  # of eight, whether the other process comes in time for the rest or not
    assert len(Store(shell.store).records()[0]) == 9

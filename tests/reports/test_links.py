"""Runs that learnt from other runs, in the columns that name these; and a page of chains of a paper."""

from dataclasses import replace

import pytest

from cakdbench.data.shipped import SHIPPED
from cakdbench.grid.experiments import load_experiment
from cakdbench.recipes import load_recipe
from cakdbench.records import MethodIdentity, TeacherIdentity
from cakdbench.reports.eligibility import sort_runs
from cakdbench.reports.experiment_results import Results
from cakdbench.reports.links import name_links
from cakdbench.reports.standard import Standard
from cakdbench.results.load import Evidence
from cakdbench.store import Store
from tests.reports.synthetic import column, record

DEMO = load_recipe("demo")
KD = MethodIdentity(id="kd", version=1, config={"temperature": 1.0, "weight": 1.0, "label_weight": 1.0})
NUMBERS = {"recipe": DEMO.identity(), "fingerprint": SHIPPED["fashion_demo"].fingerprint}
LINK = "run:kd:resnet_m>vit_xs@fashion_demo"


def made(pair, seed=0, **more):
    run = record("kd", f"{pair}@fashion_demo", seed, **NUMBERS | more)
    return run.model_copy(update={"identity": run.identity.model_copy(update={"method": KD})})


def taught_by(pair, *runs, seed=0):
    """A run that learnt from the students of others, or from a network of the registry by its name."""
    run = made(pair, seed)
    each = [
        TeacherIdentity(model=taught, sha256="a" * 64)
        if isinstance(taught, str)
        else TeacherIdentity(model=taught.identity.student, sha256=taught.weights_sha256)
        for taught in runs
    ]
    facts = run.teacher.model_copy(update={"standard": False})
    identity = run.identity.model_copy(update={"teacher": TeacherIdentity.join(each)})
    return run.model_copy(update={"identity": identity, "teacher": facts})


def started_from(pair, run, seed=0):
    own = made(pair, seed)
    recipe = {**own.identity.recipe, "init": f"sha256:{run.weights_sha256}"}
    return own.model_copy(update={"identity": own.identity.model_copy(update={"recipe": recipe})})


def of(teacher, init=""):
    numbers = DEMO.numbers() | ({"init": init} if init else {})
    return replace(column("x>resnet_s@fashion_demo", numbers=numbers), teacher=teacher, init=init)


def named(records, *columns):
    return {record.key: record.identity.teacher.model for record in name_links(records, columns)}


def test_a_run_stands_in_the_column_that_names_its_teacher():
    links = [made("resnet_m>vit_xs", seed) for seed in (0, 1, 2)]
    runs = [taught_by("vit_xs>resnet_s", link, seed=link.identity.seed) for link in links]
    sorted_runs = sort_runs([*links, *runs], [of(LINK)], Standard())
    (counting,) = sorted_runs.counting.values()
    assert [run.key for run in counting] == [run.key for run in runs]
    apart = sort_runs([*links, *runs], [of("vit_xs")], Standard())
    assert not any(apart.counting.values())
    assert {run.reasons[0] for run in apart.excluded} == {
        "a teacher that is not the registry's (trained: demo_teacher)"
    }


def test_a_chain_that_begins_with_a_teacher_of_ones_own_is_named_and_does_not_count():
    own = taught_by("resnet_m>vit_xs", "resnet_m")
    run = taught_by("vit_xs>resnet_s", own)
    assert named([own, run], of(LINK))[run.key] == LINK
    (_, found) = name_links([own, run], [of(LINK)])
    assert not found.teacher.standard and found.teacher.source == own.teacher.source


def test_a_chain_that_bites_its_tail_ends_and_does_not_count():
    first, second = made("resnet_m>vit_xs"), made("vit_xs>resnet_m")
    facts = first.teacher.model_copy(update={"standard": False})
    records = []
    for run, other in ((first, second), (second, first)):
        teacher = TeacherIdentity(model=other.identity.student, sha256=other.weights_sha256)
        identity = run.identity.model_copy(update={"teacher": teacher})
        records.append(run.model_copy(update={"identity": identity, "teacher": facts}))
    assert not any(record.teacher.standard for record in name_links(records, [of(LINK)]))


def test_a_chain_of_three_is_named_from_its_beginning():
    first = made("resnet_m>vit_xs")
    second = taught_by("vit_xs>mobilenet_s", first)
    third = taught_by("mobilenet_s>resnet_s", second)
    name = f"run:kd:{LINK}>mobilenet_s@fashion_demo"
    assert named([first, second, third], of(name))[third.key] == name
    assert named([first, second, third], of(f"run:{second.key}"))[third.key] == f"run:{second.key}"


def test_names_hold_for_the_same_seed_and_recipe_alone():
    others = made("resnet_m>vit_xs", 1), made("resnet_m>vit_xs", recipe=DEMO.identity() | {"epochs": 2})
    for link in others:
        run = taught_by("vit_xs>resnet_s", link)
        assert named([link, run], of(LINK))[run.key] == "vit_xs"


def test_of_several_teachers_each_has_the_name_that_the_column_gives_it():
    link, alike = made("resnet_m>vit_xs"), made("swin_m>swin_m")
    run = taught_by("vit_xs+swin_m>resnet_s", link, alike)
    assert named([link, alike, run], of(f"{LINK}+swin_m"))[run.key] == f"{LINK}+swin_m"


def test_a_network_of_the_registry_may_teach_beside_a_run():
    link = made("resnet_m>vit_xs")
    run = taught_by("resnet_m+vit_xs>resnet_s", "resnet_m", link)
    assert named([link, run], of(f"resnet_m+{LINK}"))[run.key] == f"resnet_m+{LINK}"


def test_all_seeds_of_a_chain_of_three_stand_in_its_column():
    """Each seed has a link of its own; what all of a column share is the network at the beginning."""
    chains = []
    for seed in (0, 1, 2):
        first = made("resnet_m>vit_xs", seed)
        second = taught_by("vit_xs>mobilenet_s", first, seed=seed)
        chains.append((first, second, taught_by("mobilenet_s>resnet_s", second, seed=seed)))
    records = [run for chain in chains for run in chain]
    found = sort_runs(records, [of(f"run:kd:{LINK}>mobilenet_s@fashion_demo")], Standard())
    assert [run.identity.seed for runs in found.counting.values() for run in runs] == [0, 1, 2]


def test_a_start_is_named_as_a_teacher_is():
    first = made("swin_m>resnet_s")
    run, start = started_from("resnet_m>resnet_s", first), "run:kd:swin_m>resnet_s@fashion_demo"
    sorted_runs = sort_runs([first, run], [of("resnet_m", start), of("resnet_m")], Standard())
    (counting,) = [(column.init, [r.key for r in rs]) for (_, column), rs in sorted_runs.counting.items() if rs]
    assert counting == (start, [run.key])


def test_where_no_column_names_a_run_nothing_is_looked_for():
    runs = [made("resnet_m>vit_xs"), made("resnet_m>resnet_s")]
    assert name_links(runs, [of("resnet_m")]) == runs


@pytest.mark.parametrize("tiny", [False, True])
def test_the_rows_of_tas_table_9_are_three_columns_more(tmp_path, tiny):
    results = Results(load_experiment("tas_table9", tiny), Evidence(Store(tmp_path / "runs"), None))
    assert len({column for column in results.columns.values()}) == 4
    starts = {spot.entry.id[:3]: spot.spec.init for spot in results.experiment.spots}
    assert (starts["(A)"], starts["(B)"]) == (None, None) and "fbt:no_infonce" in starts["(E)"]
    assert not any(results.refusal(spot) for spot in results.experiment.spots)
    assert not any(results.contradicted(spot) for spot in results.experiment.spots)

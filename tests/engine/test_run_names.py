"""Finished runs by name: which one is meant, and what it may teach."""

from types import SimpleNamespace

import pytest

from cakdbench.engine.run_names import finished_run
from cakdbench.engine.run_teachers import known_pair
from cakdbench.engine.teachers import Teachers
from cakdbench.grid.pairs import Pair
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import resolve_pairs
from cakdbench.grid.teachers import TeacherEntry
from cakdbench.records import TeacherIdentity
from cakdbench.store import RunFolder, Store
from cakdbench.utils.errors import UsageError
from tests.reports.synthetic import record, sha

PAIR = "resnet_m>vit_xs@fashion_tiny"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def finish(store, pair=PAIR, seed=0, precision="fp32", label="kd", by=(), **recipe) -> RunFolder:
    """Finish a run, without files; its teachers are the students of the runs `by`, or else models."""
    (cell,) = make_plan([label], resolve_pairs(pair), [seed], Settings(recipe=recipe), precision, always=()).cells
    dataset = SimpleNamespace(name=cell.pair.dataset, fingerprint="f" * 64, skipped=None)
    weights = {run.identity().student: run.record().weights_sha256 for run in by}
    weights = weights or {name: sha(name) for name in cell.pair.teachers}
    taught = [TeacherIdentity(model=name, sha256=sha256) for name, sha256 in weights.items()]
    identity, made = cell.identity(dataset, TeacherIdentity.join(taught)), record("kd")
    run = store.run(identity)
    run.acquire()
    run.open(identity, cell.label, cell.recipe.name)
    facts = made.teacher.model_copy(update={"source": " + ".join(f"run {run.key}" for run in by)} if by else {})
    own = {"key": run.key, "label": cell.label, "identity": identity, "recipe_name": cell.recipe.name, "teacher": facts}
    run.finish(made.model_copy(update=own | {"weights_sha256": sha(run.key)}))
    run.release()
    return run


def test_a_run_of_a_pair_is_that_of_the_seed_and_precision(store):
    runs = {
        (seed, precision): finish(store, PAIR, seed, precision) for seed in (0, 1) for precision in ("fp32", "bf16")
    }
    for (seed, precision), run in runs.items():
        assert finished_run(store, f"run:kd[temperature=1.0]:{PAIR}", seed, precision).key == run.key
        assert finished_run(store, f"run:{run.key}", 5, "fp32").key == run.key


def test_the_only_run_is_not_taken_for_that_of_another_seed_or_precision(store):
    run = finish(store)
    for seed, precision in ((1, "fp32"), (0, "bf16")):
        with pytest.raises(UsageError, match=rf"no finished runs of seed {seed} in {precision} .*run:{run.key} \(fp32"):
            finished_run(store, f"run:kd:{PAIR}", seed, precision)


def test_of_two_recipes_none_is_guessed(store):
    keys = {finish(store).key, finish(store, epochs=1).key}
    with pytest.raises(UsageError, match="means 2 finished runs of seed 0 in fp32 .*give one key of") as told:
        finished_run(store, f"run:kd:{PAIR}", 0, "fp32")
    assert all(key in str(told.value) for key in keys)


ON = "@fashion_tiny"
FIRST = f"run:fbt:{PAIR}"
CHAIN = f"run:kd:{FIRST}>mobilenet_s{ON}"


class TestOfAChain:
    """Two runs of kd on mobilenet_s, whose teachers are students of the same model under other methods."""

    @pytest.fixture
    def first(self, store):
        return finish(store, label="fbt")

    @pytest.fixture
    def second(self, store, first):
        finish(store, f"vit_xs>mobilenet_s{ON}", by=[finish(store)])
        return finish(store, f"vit_xs>mobilenet_s{ON}", by=[first])

    @pytest.mark.parametrize(
        "name",
        [
            CHAIN,
            f"run:kd[temperature=1.0]:run:tas:{PAIR} > mobilenet_s{ON}",
            f"run:kd:run:fbt[gamma=1]:{PAIR}>mobilenet_s{ON}",
            "run:kd:run:{key}>mobilenet_s@fashion_tiny",
            "run:kd[temperature=1.0,weight=1]:run:{short}>mobilenet_s@fashion_tiny",
        ],
    )
    def test_every_name_of_its_teacher_finds_it(self, store, first, second, name):
        name = name.format(key=first.key, short=first.key[:12])
        assert finished_run(store, name, 0, "fp32").key == second.key

    def test_it_is_found_as_the_teacher_of_a_third_by_seed_and_precision(self, store, second):
        third = finish(store, f"mobilenet_s>resnet_s{ON}", by=[second])
        name = f"run:kd:{CHAIN}>resnet_s{ON}"
        assert finished_run(store, name, 0, "fp32").key == third.key
        with pytest.raises(UsageError, match=f"no finished runs of seed 1 in fp32 .*give one key of run:{third.key}"):
            finished_run(store, name, 1, "fp32")

    def test_a_run_of_another_seed_taught_none_of_that_name(self, store, first):
        finish(store, f"vit_xs>mobilenet_s{ON}", seed=1, by=[first])
        with pytest.raises(UsageError, match="no finished runs of seed 1 in fp32 in .*runs$"):
            finished_run(store, CHAIN, 1, "fp32")

    @pytest.mark.parametrize("name", [f"run:kd:run:ofa:{PAIR}>mobilenet_s{ON}", f"run:kd:vit_xs>mobilenet_s{ON}"])
    def test_another_link_or_the_plain_model_is_another_run(self, store, second, name):
        with pytest.raises(UsageError, match="no finished runs of seed 0 in fp32 in .*runs$"):
            finished_run(store, name, 0, "fp32")

    def test_a_model_whose_entry_names_the_run_names_it(self, store, first, second):
        entry = TeacherEntry(model="vit_xs", dataset="fashion_tiny", run=first.key)
        entries = {("vit_xs", "fashion_tiny"): entry}
        assert finished_run(store, f"run:kd:vit_xs>mobilenet_s{ON}", 0, "fp32", entries).key == second.key

    def test_a_damaged_run_hides_no_other(self, store, first, second):
        damaged = finish(store, f"vit_xs>mobilenet_s{ON}", by=[first], epochs=1)
        damaged.record_file.write_text("{")
        assert finished_run(store, CHAIN, 0, "fp32").key == second.key


def test_of_several_teachers_each_is_found_in_its_order(store):
    runs = [finish(store, label="fbt"), finish(store, f"swin_m>resnet_s{ON}")]
    names = FIRST, f"run:kd:swin_m>resnet_s{ON}"
    both = finish(store, f"vit_xs+resnet_s>mixer_xs{ON}", by=runs)
    pair = f"run:kd:{{}}>mixer_xs{ON}"
    assert finished_run(store, pair.format("+".join(names)), 0, "fp32").key == both.key
    assert finished_run(store, pair.format(f"{names[0]}+run:{runs[1].key}"), 0, "fp32").key == both.key
    for others in ("+".join(names[::-1]), names[0]):
        with pytest.raises(UsageError, match="no finished runs"):
            finished_run(store, pair.format(others), 0, "fp32")


def test_a_student_of_models_alone_is_found_beside_one_of_runs(store):
    plain = finish(store, f"resnet_m+swin_m>mixer_xs{ON}")
    first = finish(store, f"swin_m>resnet_m{ON}")
    finish(store, f"resnet_m+swin_m>mixer_xs{ON}", by=[first, finish(store, f"resnet_m>swin_m{ON}")])
    assert finished_run(store, f"run:kd:resnet_m+swin_m>mixer_xs{ON}", 0, "fp32").key == plain.key


@pytest.mark.parametrize("learnt", [PAIR, f"{PAIR}:holdout"])
def test_a_run_teaches_on_its_data_and_where_images_are_held_out_of_them(store, tmp_path, learnt):
    run, teachers = finish(store, learnt), Teachers(store, tmp_path, Settings())
    pair = known_pair(store, Pair.parse(f"run:{run.key}>resnet_s@fashion_tiny:holdout"))
    assert pair.teacher_models == ("vit_xs",)
    assert teachers.entry(pair.teacher, pair.dataset).run == run.key
    with pytest.raises(UsageError, match="it cannot teach fashion_demo:holdout"):
        teachers.entry(pair.teacher, "fashion_demo:holdout")


def test_a_run_on_held_out_images_teaches_nothing_on_the_test_set(store, tmp_path):
    run = finish(store, f"{PAIR}:holdout")
    with pytest.raises(UsageError, match="learnt fashion_tiny:holdout: it cannot teach fashion_tiny"):
        Teachers(store, tmp_path, Settings()).entry(f"run:{run.key}", "fashion_tiny")

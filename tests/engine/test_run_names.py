"""Finished runs by name: which one is meant, and what it may teach."""

from types import SimpleNamespace

import pytest

from cakdbench.engine.run_teachers import finished_run, known_pair
from cakdbench.engine.teachers import Teachers
from cakdbench.grid.pairs import Pair
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import resolve_pairs
from cakdbench.store import RunFolder, Store
from cakdbench.utils.errors import UsageError
from tests.reports.synthetic import record, taught_by

PAIR = "resnet_m>vit_xs@fashion_tiny"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def finish(store, pair=PAIR, seed=0, precision="fp32", **recipe) -> RunFolder:
    """Finish a run of kd, without files."""
    (cell,) = make_plan(["kd"], resolve_pairs(pair), [seed], Settings(recipe=recipe), precision, always=()).cells
    dataset = SimpleNamespace(name=cell.pair.dataset, fingerprint="f" * 64, skipped=None)
    identity, made = cell.identity(dataset, taught_by(cell)), record("kd")
    run = store.run(identity)
    run.acquire()
    run.open(identity, cell.label, cell.recipe.name)
    own = {"key": run.key, "label": cell.label, "identity": identity, "recipe_name": cell.recipe.name}
    run.finish(made.model_copy(update=own))
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

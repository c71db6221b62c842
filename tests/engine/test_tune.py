"""Searching settings: the trials, what they never see, how they go on, and what is refused."""

import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import optuna
import pytest

import cakdbench
from cakdbench.data.datasets import load_dataset
from cakdbench.engine.options import run_options
from cakdbench.engine.session import Session
from cakdbench.engine.tune import AT_RANDOM, Subject, ask
from cakdbench.engine.tune import _subject as subject_of
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import resolve_pairs
from cakdbench.grid.tuned import Search, Trial, Tuned, read_tuned
from cakdbench.method import Tunable, tunables
from cakdbench.records import Tuning
from cakdbench.registry import get_method, method_ids
from cakdbench.store import Store
from cakdbench.submissions.submit import find_runs
from tests.cli_lab import Program, Shell

PAGE = (Path(__file__).parents[2] / "docs/tune.md").read_text()
PAIR = "resnet_m>vit_xs@mine"
SMALL = [
    f"{owner}.{number}"
    for owner, epochs in (("recipe", 2), ("teacher", 4))
    for number in (f"epochs={epochs}", "image_size=32", "global_batch=20", "local_batch=20")
]


def make_data(folder: Path, noise: bool = False) -> Path:
    """200 training and 40 test images, with the test images' own labels or with noise in their place."""
    full = load_dataset("fashion_demo")
    halves = {}
    for name, split, count in (("train", full.train, 200), ("test", full.test, 40)):
        halves[f"{name}_images"] = np.stack([np.asarray(split.image(i)) for i in range(count)])
        halves[f"{name}_labels"] = split.labels[:count]
    if noise:
        halves["test_labels"] = np.random.RandomState(1).permutation(halves["test_labels"])
    folder.mkdir(exist_ok=True)
    np.savez(folder / "mine.npz", **halves)
    (folder / "datasets.toml").write_text('[[datasets]]\nname = "mine"\nsource = "npz"\npath = "mine.npz"\n')
    (folder / "teachers.toml").write_text(
        '[[teachers]]\nmodel = "resnet_m"\ndataset = "mine"\ntrain = "demo_teacher"\n'
    )
    return folder


def places(folder: Path) -> list[str]:
    files = [f"--{name}={folder / name}.toml" for name in ("datasets", "teachers")]
    return ["--recipe", "demo", f"--store={folder / 'runs'}", "--cpu", *files]


def command(folder: Path, *words: str, method: str = "at", trials: int = 3, lanes: int = 2) -> list[str]:
    size = ["--trials", str(trials), "--lanes", str(lanes)]
    return ["tune", method, "--pair", PAIR, *size, *places(folder), *words, "--set", *SMALL]


def file_of(folder: Path) -> Path:
    return folder / "runs/tuned/at-resnet_m-vit_xs-mine.toml"


def times(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("runs/*/record.json")}


def results(tuned: Tuned) -> list[tuple]:
    return [(trial.label, trial.settings, trial.top1) for trial in tuned.trials]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> tuple[Shell, Path]:
    """A search of three trials."""
    folder = make_data(tmp_path_factory.mktemp("tuned"))
    shell = Shell(folder, folder)
    code, text = shell(*command(folder))
    assert code == 0 and "best of 3: " in text, text
    return shell, folder


def test_trials_are_runs_on_held_out_images_and_the_best_is_taken(tuned):
    found = read_tuned(file_of(tuned[1]))
    assert [trial.label for trial in found.trials][0] == "at" and found.trials[0].settings == {"weight": 1000.0}
    assert (found.search.train, found.search.held) == (160, 40)
    records = {record.key: record for record in Store(tuned[1] / "runs").records()[0]}
    for trial in found.trials:
        (record,) = (records[key] for key in trial.runs)
        assert record.identity.dataset.name == "mine:holdout" and record.result.top1 == pytest.approx(trial.top1)
        assert record.identity.method.config["weight"] == trial.settings["weight"]
    best = max(found.trials, key=lambda trial: trial.top1)
    assert found.label == best.label and len({trial.label for trial in found.trials}) == 3


def test_the_same_command_again_trains_nothing_and_more_trials_go_on(tuned):
    shell, folder = tuned
    before, text = times(folder), file_of(folder).read_bytes()
    assert shell(*command(folder))[0] == 0
    assert (times(folder), file_of(folder).read_bytes()) == (before, text)
    file_of(folder).rename(folder / "first.toml")  # the runs are in the store all the same
    assert shell(*command(folder, trials=4))[0] == 0
    longer = read_tuned(file_of(folder))
    assert longer.trials[:3] == read_tuned(folder / "first.toml").trials and len(times(folder)) == len(before) + 1
    (folder / "first.toml").replace(file_of(folder))
    assert shell(*command(folder, trials=4))[0] == 0
    assert read_tuned(file_of(folder)) == longer


def test_with_noise_in_the_place_of_the_test_labels_the_trials_are_the_same(tuned, tmp_path):
    folder = make_data(tmp_path / "noise", noise=True)
    code, text = Shell(folder, folder)(*command(folder))
    assert code == 0, text
    own, others = (read_tuned(file_of(place)) for place in (folder, tuned[1]))
    assert own.search.identity != others.search.identity  # since those of the test set are another dataset's
    assert results(own) == results(others)[:3] and len({top1 for _, _, top1 in results(own)}) > 1


def test_a_killed_search_goes_on_as_if_nothing_had_happened(tuned, tmp_path):
    folder = make_data(tmp_path / "killed")
    (teacher,) = tuned[1].glob("runs/scratch-*")
    shutil.copytree(teacher, folder / "runs" / teacher.name)
    to = folder / "at.toml"  # beside files of other kinds
    program = Program(*command(folder, f"--to={to}"))
    for line in ("2 trials: ", "epoch 1/2: "):  # within the second batch
        program.wait_for(line)
    program.process.kill()
    program.finish()
    before = times(folder)
    code, text = Program(*command(folder, f"--to={to}")).finish()
    assert code == 0, text
    assert before.items() <= times(folder).items() and len(before) == 3  # the teacher and two trials
    assert results(read_tuned(to)) == results(read_tuned(file_of(tuned[1])))[:3]


def test_a_run_with_the_settings_says_that_they_were_tuned(tuned):
    """By the commands of docs/tune.md, on fewer images."""
    shell, folder = tuned
    best = read_tuned(file_of(folder))
    lines = re.findall("^    cakdbench (.*)$", PAGE.replace("fashion_demo", "mine"), re.MULTILINE)
    searching, training, _ = (shlex.split(line.replace("runs/", f"{folder}/runs/"), comments=True) for line in lines)
    assert shell(*searching, "--trials", "3", "--lanes", "2", *places(folder), "--set", *SMALL)[0] == 0
    more = [*places(folder), "--seeds", "0", "--jobs", "1", "--yes", "--boards", str(folder / "boards")]
    code, text = shell(*training, *more, "--set", *SMALL)
    assert code == 0, text
    records = {record.label: record for record in Store(folder / "runs").records()[0] if
               record.identity.dataset.name == "mine" and record.teacher}  # fmt: skip
    assert records.keys() == {"kd", "at", best.label} and best.label != "at"
    count = len(best.trials)  # 3, or 4 after the tests above
    assert records[best.label].tuning == Tuning(trials=count, pairs=best.search.pairs) and records["at"].tuning is None
    assert f"{best.label} (tuned, {count} trials)" in text
    runs = cakdbench.load_results(folder / "runs").query("dataset == 'mine' and teacher.notna()")
    assert dict(zip(runs.method, runs.trials)) == {"kd": 0, "at": 0, best.label: count}
    assert '"tuning"' not in (folder / "runs" / records["at"].key / "record.json").read_text()


def test_trials_are_not_submitted(tuned):
    store = Store(tuned[1] / "runs")
    keys = {run.key for run in store.runs()}
    submitted = {run.key for run in find_runs(["all"], store)}
    assert submitted and keys - submitted == {key for key in keys if "-holdout-" in key}


def test_the_budget_counts_the_other_searches_of_the_dataset(tuned, tmp_path):
    shell, folder = tuned
    more = ("--to", str(folder / "runs/tuned/other.toml"), "--seed", "1")
    code, text = shell(*command(folder, *more, trials=18))
    assert code == 2 and "RULES.md allows 20 per method and dataset, give at most" in text, text
    code, text = shell(*command(folder, trials=21))
    assert code == 2 and "--trials 21: leaderboards/RULES.md allows 20" in text, text


REFUSALS = {
    "scratch": ((), "scratch declares nothing tunable"),
    "at[weight=10]": ((), "declares nothing tunable"),
    "att": ((), "unknown method 'att'; did you mean at"),
    "at": (("--lanes", "3"), "holds another search (lanes differ): name another file with --to, or remove it"),
    "kd": (("--set", "kd.weight=2"), "fix a method's setting as METHOD[KEY=VALUE]"),
    "cc:peng": ((), "cc:peng declares nothing tunable beside what it fixes (form, weight)"),
}


@pytest.mark.parametrize("method", REFUSALS)
def test_what_cannot_be_tuned_is_refused_in_one_line(tuned, method):
    shell, folder = tuned
    words, told = REFUSALS[method]
    before = times(folder)
    code, text = shell(*command(folder, *words, method=method))
    assert code == 2 and told in text and len(text.strip().splitlines()) == 1, text
    assert times(folder) == before


def test_pairs_of_two_datasets_are_refused(tuned):
    shell, folder = tuned
    pairs = f"{PAIR},resnet_m>vit_xs@fashion_tiny"
    code, text = shell("tune", "at", "--pair", pairs, *places(folder))
    assert code == 2 and "the pairs are of several datasets" in text


def test_without_optuna_the_error_says_how_to_get_it(tuned, monkeypatch):
    shell, folder = tuned
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, text = shell(*command(folder, trials=5))
    assert code == 2 and 'pip install "cakdbench[tune]"' in text and len(text.strip().splitlines()) == 1


def test_a_file_of_something_else_is_no_settings_file(tuned):
    shell, folder = tuned
    code, text = shell("run", "--settings", str(folder / "teachers.toml"), "--pairs", PAIR, *places(folder))
    assert code == 2 and "teachers.toml: " in text


SPACE = {"weight": Tunable(0.01, 100.0, log=True), "form": Tunable(choices=("a", "b"))}
SUBJECT = Subject("any", None, (), SPACE, {"weight": 1.0, "form": "a"})


def tried(count: int) -> list[Trial]:
    """Trials whose accuracy falls with the weight; every fifth failed."""
    weights = np.geomspace(0.01, 100, count).round(4).tolist()
    tops = [None if place % 5 == 4 else 50.0 - place for place in range(count)]
    return [Trial(label="", top1=top, runs=(), settings={"weight": w, "form": "b"}) for w, top in zip(weights, tops)]


def test_what_is_tried_next_depends_on_trials_and_seed_alone():
    first = ask(optuna, SUBJECT, [], 4, 0)
    assert first[0] == SUBJECT.defaults and first == ask(optuna, SUBJECT, [], 4, 0) != ask(optuna, SUBJECT, [], 4, 1)
    assert ask(optuna, SUBJECT, tried(9), 2, 0) == ask(optuna, SUBJECT, tried(9), 3, 0)[:2]
    for settings in ask(optuna, SUBJECT, tried(9), 9, 0):
        assert 0.01 <= settings["weight"] <= 100 and settings["form"] in "ab"
        assert settings["weight"] == float(f"{settings['weight']:.3g}")


def test_the_search_goes_where_trials_were_good():
    asked = ask(optuna, SUBJECT, tried(4 * AT_RANDOM), 9, 0)
    assert np.median([settings["weight"] for settings in asked]) < 1


def test_what_is_tried_lies_in_a_narrow_range_and_of_whole_numbers_is_whole():
    space = {"narrow": Tunable(0.0012345, 0.0012389), "heads": Tunable(1, 8)}
    subject = Subject("any", None, (), space, {"narrow": 0.001235, "heads": 2})
    asked = ask(optuna, subject, [], 20, 0)
    assert all(0.0012345 <= settings["narrow"] <= 0.0012389 for settings in asked)
    assert all(type(settings["heads"]) is int and 1 <= settings["heads"] <= 8 for settings in asked)
    earlier = tuple(Trial(label="", top1=50.0, runs=(), settings=settings) for settings in asked)
    assert ask(optuna, subject, earlier, 1, 0)


def test_the_settings_of_a_variant_are_not_searched(tmp_path):
    pair = {"pairs": "resnet_m>vit_xs@fashion_tiny", "recipe": "tiny", "cpu": True}
    session = Session(run_options(store=tmp_path, **pair))
    for name, searched in {
        "irg:free_maximum": {"vertex_weight", "edge_weight", "transform_weight"},
        "irg:no_edges[vertex_weight=0.2]": {"transform_weight", "constant_maximum"},
        "fbt:no_infonce": {"gamma", "ofa_weight"},
    }.items():
        assert subject_of(session, name).space.keys() == searched
    fixed = subject_of(session, "irg:free_maximum")
    assert fixed.label({**fixed.defaults, "edge_weight": 2.0}) == "irg:free_maximum[edge_weight=2.0]"


def write_search(path: Path, best: str, trials: int = 4, dataset: str = "fashion_tiny") -> Path:
    """The file of a search of at, whose first trial has the default settings."""
    made = tuple(Trial(label=label, top1=50.0, runs=(), settings={}) for label in ("at", *("at[weight=2.0]",) * trials))
    facts = {"method": "at", "pairs": (f"resnet_m>vit_xs@{dataset}",), "dataset": dataset, "space": {}}
    zero = dict.fromkeys(("train", "held", "seed", "lanes"), 0)
    search = Search(**facts, **zero, recipes=(), changed=(), precision="fp32", identity="")
    Tuned(label=best, search=search, trials=made[:trials]).write(path)
    return path


def plan_with(*files: Path, pairs: str) -> dict[tuple[str, str], Tuning | None]:
    options = run_options("at", tuned_files=files, pairs=pairs, recipe="tiny")
    specs = resolve_pairs(pairs, "tiny")
    cells = make_plan(options.methods, specs, [0], Settings(), always=(), tunings=options.tunings).cells
    return {(cell.label, cell.pair.dataset): cell.tuning for cell in cells}


def test_a_search_that_found_nothing_better_is_no_tuning(tmp_path):
    file = write_search(tmp_path / "a.toml", "at")
    assert plan_with(file, pairs="resnet_m>vit_xs@fashion_tiny") == {("at", "fashion_tiny"): None}


def test_settings_are_tuned_on_the_dataset_of_their_search_alone(tmp_path):
    file = write_search(tmp_path / "a.toml", "at[weight=2.0]")
    found = plan_with(file, pairs="swin_m>vit_xs@fashion_tiny,resnet_m>vit_xs@fashion_demo")
    assert found["at[weight=2.0]", "fashion_tiny"].trials == 4
    assert found["at[weight=2.0]", "fashion_demo"] is found["at", "fashion_tiny"] is None


PLAIN = "resnet_m>vit_xs@fashion_tiny"
LINK = f"run:at[weight=2.0]:{PLAIN}>resnet_s@fashion_tiny"


@pytest.mark.parametrize("pairs", [LINK, f"{LINK},{PLAIN}", f"{PLAIN},{LINK}"])
@pytest.mark.parametrize("best", ["at[weight=2.0]", "at[weight=2]"])
def test_a_link_with_the_settings_of_a_file_says_so_wherever_it_stands(tmp_path, pairs, best):
    options = run_options("kd", tuned_files=[write_search(tmp_path / "a.toml", best)], pairs=pairs, recipe="tiny")
    specs = resolve_pairs(pairs, "tiny")
    cells = make_plan(options.methods, specs, [0, 1], Settings(), always=(), tunings=options.tunings).cells
    links = [cell for cell in cells if (cell.label, cell.pair.student) == ("at[weight=2.0]", "vit_xs")]
    assert [cell.seed for cell in links] == [0, 1] and {cell.tuning.trials for cell in links} == {4}
    assert {cell.label for cell in cells if cell.tuning} == {"at[weight=2.0]"}


def test_a_link_is_trained_as_it_is_spelled_whatever_the_file_has(tmp_path):
    pairs = f"run:at:{PLAIN}>resnet_s@fashion_tiny"
    options = run_options(tuned_files=[write_search(tmp_path / "a.toml", "at[weight=2.0]")], pairs=pairs)
    cells = make_plan(options.methods, resolve_pairs(pairs), [0], Settings(), tunings=options.tunings).cells
    (link,) = [cell for cell in cells if cell.pair.student == "vit_xs"]
    assert (link.label, link.config.weight, link.tuning) == ("at", 1000.0, None)
    assert [cell.label for cell in cells if cell.pair.student == "resnet_s"] == ["scratch", "kd", "at[weight=2.0]"]


def test_the_methods_own_settings_are_not_tuned_where_a_search_of_another_pair_found_them(tmp_path):
    file = write_search(tmp_path / "a.toml", "at[weight=1000.0]")
    assert plan_with(file, pairs=PLAIN) == {("at", "fashion_tiny"): None}


def test_the_trials_of_all_searches_of_method_and_dataset_are_counted(tmp_path):
    file = write_search(tmp_path / "a.toml", "at[weight=2.0]")
    write_search(tmp_path / "b.toml", "at", trials=3)
    write_search(tmp_path / "c.toml", "at", dataset="fashion_demo")
    found = plan_with(file, pairs="resnet_m>vit_xs@fashion_tiny")
    assert found["at[weight=2.0]", "fashion_tiny"].trials == 4 + 3


@pytest.mark.parametrize("id", method_ids())
def test_every_declared_range_holds_the_defaults_of_all_pairs(id):
    method = get_method(id)
    declared = tunables(method.Config)
    given = [vars(method.Config()), *(setting.values for setting in method.settings)]
    assert bool(declared) is (id != "scratch")
    for name, space in declared.items():
        for value in (values[name] for values in given if name in values):
            assert value in space.choices if space.choices else 0 < space.low <= value <= space.high
            for end in space.choices or (space.low, space.high):
                method.Config(**{name: end})


def test_the_file_is_toml_that_reads_back(tuned, tmp_path):
    found = read_tuned(file_of(tuned[1]))
    found.write(tmp_path / "copy.toml")
    assert read_tuned(tmp_path / "copy.toml") == found
    assert list(tomllib.loads((tmp_path / "copy.toml").read_text())) == ["label", "search", "trials"]

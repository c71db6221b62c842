"""The commands as a user types them: what they do, what they say, their exit codes."""

import json
import os
import re
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cakdbench.engine.teachers import Teachers
from cakdbench.grid.plan import Settings
from cakdbench.grid.teachers import teachers_from_file
from cakdbench.models.staged import StagedModel
from cakdbench.store import Store
from cakdbench.train.checkpoint import save_checkpoint
from tests.cli_lab import SHORT, Shell

ONCE = (*SHORT, "recipe.epochs=1")


def records(shell) -> dict[str, dict]:
    """Records of the students by label."""
    found = {}
    for record in Store(shell.store).records()[0]:
        if record.recipe_name == "demo":
            found[record.label] = record
    return found


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> tuple[Path, str]:
    """The folder of a finished command, and what it said."""
    shell = Shell(tiny, tmp_path_factory.mktemp("trained"), sure=False)
    code, output = shell.run("--methods", "ofa,tas")
    assert code == 0, output
    return shell.work, output


@pytest.fixture
def finished(shell, trained):
    """A copy of that folder."""
    work, output = trained
    shutil.copytree(work, shell.work, dirs_exist_ok=True)
    return shell, output


@pytest.fixture
def taught(shell, trained):
    """A folder in which nothing but the teacher is trained."""
    [teacher] = (trained[0] / "runs").glob("*-resnet_m-*")
    shutil.copytree(teacher, shell.store / teacher.name)
    return shell


def test_a_checkpoint_that_does_not_fit_the_code_is_set_aside_and_the_run_begins_anew(finished):
    shell, _ = finished
    record = records(shell)["kd"]
    run = Store(shell.store).run(record.identity)
    (run.path / "record.json").unlink()
    save_checkpoint(run.checkpoints, 3, {"step": 3, "method": {"an attribute of another name": 1}}, run.key)
    code, output = shell.run("--methods", "ofa,tas")
    assert code == 0 and f"{run.key}: its checkpoint does not fit the code" in output
    again = run.record()
    assert again.weights_sha256 == record.weights_sha256 and again.history == record.history


def test_run_trains_teacher_and_students_and_keeps_everything_needed_to_trust_them(finished):
    shell, output = finished
    assert "resnet_m@timm:folder/tiny" in output
    found = records(shell)
    assert set(found) == {"scratch", "kd", "ofa", "fbt"}
    labels = [i for i in range(10) for _ in range(6)]
    for label, record in found.items():
        run = Store(shell.store).run(record.identity)
        predictions = np.load(run.predictions)
        assert predictions.dtype == np.uint16 and len(predictions) == 60
        assert record.result.top1 == pytest.approx(100 * np.mean(predictions == labels))
        assert record.result.top1 == record.history[-1].top1
        assert record.result.optimistic_top1 == max(line.top1 for line in record.history)
        assert (record.teacher is None) == (label == "scratch")
        assert set(record.conditions.lanes) == set(found)
        state = load_file(run.student)
        plain = StagedModel("vit_xs", 10, 64).export_state()
        assert {name: value.shape for name, value in state.items()} == {n: v.shape for n, v in plain.items()}
        assert not run.checkpoints.exists()
    assert found["kd"].teacher.measured == found["kd"].teacher.expected
    assert found["scratch"].extra_parameters == found["kd"].extra_parameters == 0 < found["ofa"].extra_parameters


def test_results_with_changed_settings_are_shown_apart_with_their_gains(finished):
    shell, output = finished
    table = output.partition("Apart from the boards: demo with other settings")[2]
    assert table.count("recipe.epochs = 2 (standard 6)") == 1
    found = {label: record.result.top1 for label, record in records(shell).items()}
    for label, top1 in found.items():
        gain = "" if label == "scratch" else f"{top1 - found['scratch']:+.2f}, "
        assert re.search(rf"{label} .* {re.escape(f'{top1:.2f} ({gain}n 1)')}", table)


def test_the_same_command_again_trains_nothing(finished):
    shell, _ = finished
    before = {path: path.stat().st_mtime_ns for path in shell.store.rglob("record.json")}
    code, output = shell.run("--methods", "ofa,fbt")
    assert code == 0 and "epoch 1/" not in output
    assert before == {path: path.stat().st_mtime_ns for path in shell.store.rglob("record.json")}


def test_a_damaged_record_is_named_and_computed_again(finished):
    shell, _ = finished
    kd = records(shell)["kd"]
    path = Store(shell.store).run(kd.identity).path / "record.json"
    path.write_text(path.read_text()[:-40])
    assert (
        "damaged"
        in shell("leaderboard", "--pairs", "demo", "--store", str(shell.store), "--boards", str(shell.boards))[1]
    )
    code, output = shell.run("--methods", "ofa,fbt")
    assert code == 0 and "record.json.damaged" in output
    again = records(shell)["kd"]
    assert (again.weights_sha256, again.history) == (kd.weights_sha256, kd.history)


def test_status_shows_every_run(finished):
    shell, _ = finished
    code, output = shell("status", "--store", str(shell.store))
    assert code == 0 and output.count("done") >= 5


def test_dry_run_shows_plan_states_and_an_estimate_and_starts_nothing(shell):
    code, output = shell.run("--methods", "ofa", "--dry-run")
    assert code == 0, output
    assert "scratch, kd, ofa" in output and "estimate: about" in output
    assert "teacher to train first: resnet_m" in output
    assert not shell.store.exists()


@pytest.mark.parametrize(
    ("init", "words"),
    [
        ("run:scratch:vit_xs@timm:folder/tiny", ["3 planned"]),
        ("run:scratch:vit_s@timm:folder/tiny", ["the student vit_xs cannot start from run:scratch", "no finished run"]),
        ("file:gone.pth", ["the student vit_xs cannot start from file:gone.pth", "No such file"]),
    ],
)
def test_students_start_from_a_finished_run_or_it_is_said_before(finished, init, words):
    shell, _ = finished
    code, output = shell.run("--methods", "ofa", "--dry-run", settings=(*SHORT, f"recipe.init={init}"))
    assert code == 0 and all(word in output for word in words), output


def test_a_changed_number_makes_other_runs(finished):
    shell, _ = finished
    before = set(Store(shell.store).root.iterdir())
    code, output = shell.run("--methods", "ofa", settings=(*SHORT, "ofa.gamma=1.4"))
    assert code == 0, output
    new = [path for path in Store(shell.store).root.iterdir() if path not in before]
    assert [json.loads((path / "identity.json").read_text())["method"]["config"]["gamma"] for path in new] == [1.4]


def test_a_plan_fetches_nothing(shell, monkeypatch):
    def connect(*_, **__):
        raise AssertionError("a dry run asks the network")

    monkeypatch.setattr("socket.socket.connect", connect)
    pairs = "swin_t>resnet18@cifar100,deit_t>resnet18@imagenet1k,resnet_m>vit_xs@timm:torch/cifar10"
    for pair in pairs.split(","):
        code, output = shell.run("--methods", "kd", "--dry-run", pairs=pair)
        assert code in (0, 2) and ("nothing was downloaded" in output or "cannot open" in output), output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "offa"], ["offa", "ofa"]),
        (["--workers", "-1"], ["--workers", "equal to 0"]),
        (["--data-dir", "mistyped"], ["no folder mistyped", "mkdir"]),
        (["--method-file", "."], ["no method file at ."]),
        (["--methods", "fbt:no_infonse"], ["no_infonse", "no_infonce"]),
        (["--seeds", "one"], ["--seeds", "one"]),
        (["--recipe", "demoo"], ["demoo", "demo"]),
        (["--precision", "fp8"], ["fp8", "bf16"]),
        (["--method-file", "nowhere.py"], ["nowhere.py"]),
        (["--teachers", "nowhere.toml"], ["nowhere.toml"]),
        (["--colour"], ["--colour"]),
    ],
)
def test_a_wrong_argument_ends_with_code_2_and_the_nearest_names(shell, arguments, words):
    code, output = shell.run(*arguments)
    assert code == 2
    assert all(word in output for word in words), output
    assert not shell.store.exists()


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ("cifr_all", ["cifr_all", "cifar_all"]),
        ("resnet_n>vit_xs@fashion_demo", ["resnet_n", "resnet_m"]),
        ("resnet_m>vit_xs@fashion_dem", ["fashion_dem", "fashion_demo"]),
        ("resnet_m>vit_xs", ["TEACHER>STUDENT@DATASET"]),
        ("vit_m>mixer_xs@timm:folder/tiny", ["no teacher vit_m", "cakdbench teacher train"]),
        ("resnet_m>vit_xs@cifar100", ["cifar100", "cifar-100-python"]),
    ],
)
def test_a_wrong_pair_ends_with_code_2_and_says_what_to_do(shell, pairs, words):
    code, output = shell.run("--methods", "kd", pairs=pairs)
    assert code == 2
    assert all(word in output for word in words), output


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("recipe.epoch=5", ["epoch", "epochs"]),
        ("ofa.gama=1", ["gama", "gamma"]),
        ("ofa.gamma=high", ["gamma", "high"]),
        ("ofa.gamma=true", ["gamma", "number", "True"]),
        ("ofa.gamma=nan", ["gamma", "finite"]),
        ("fbt.gamma=1", ["fbt", "not among the methods"]),
        ("gamma=1", ["OWNER.KEY=VALUE"]),
        ("recipe.global_batch=500", ["500", "80 training images"]),
    ],
)
def test_a_wrong_setting_ends_with_code_2_and_names_it(shell, setting, words):
    code, output = shell.run("--methods", "ofa", settings=(*SHORT, setting))
    assert code == 2
    assert all(word in output for word in words), output


def test_a_teacher_off_its_entry_stops_the_run_with_both_numbers_unless_allowed(finished):
    shell, _ = finished
    kd = records(shell)["kd"]
    weights = next(r for r in Store(shell.store).records()[0] if r.recipe_name == "demo_teacher")
    student = Store(shell.store).run(weights.identity).student
    entry = shell.work / "other.toml"
    entry.write_text(
        '[[teachers]]\nmodel = "resnet_m"\ndataset = "timm:folder/tiny"\n'
        f'path = "{student}"\naccuracy = {kd.teacher.measured - 5}\n'
    )
    shell.store = shell.work / "fresh"
    code, output = shell.run("--methods", "kd", "--teachers", str(entry))
    assert code == 1
    assert f"{kd.teacher.measured:.2f}" in output and f"{kd.teacher.measured - 5:.2f}" in output
    assert not records(shell)
    code, output = shell.run("--methods", "kd", "--teachers", str(entry), "--allow-teacher-mismatch")
    assert code == 0, output
    again = records(shell)["kd"]
    assert again.teacher.mismatch_allowed
    assert again.weights_sha256 == kd.weights_sha256


def test_no_student_is_trained_before_all_teachers_are_through_their_gates(taught):
    shell, entry = taught, taught.work / "second.toml"
    teacher = next(r for r in Store(shell.store).records()[0] if r.recipe_name == "demo_teacher")
    weights = Store(shell.store).run(teacher.identity).student
    entry.write_text(
        f'[[teachers]]\nmodel = "resnet_m:other"\ndataset = "timm:folder/tiny"\npath = "{weights}"\naccuracy = 99\n'
    )
    before = len(Store(shell.store).records()[0])
    pairs = "resnet_m>vit_xs@timm:folder/tiny,resnet_m:other>mobilenet_s@timm:folder/tiny"
    code, output = shell.run("--methods", "kd", "--teachers", str(entry), pairs=pairs)
    assert code == 1 and "99.00" in output
    assert len(Store(shell.store).records()[0]) == before


def test_a_teacher_made_otherwise_than_the_registry_says_is_not_standard(finished):
    shell, _ = finished
    store = Store(shell.store)
    standard = Teachers(store, shell.work, Settings())
    changed = Teachers(store, shell.work, Settings(teacher={"epochs": 1}))
    assert standard.is_standard("resnet_m", "fashion_demo")
    assert not changed.is_standard("resnet_m", "fashion_demo")
    own = shell.work / "own.toml"
    own.write_text('[[teachers]]\nmodel = "resnet_m"\ndataset = "fashion_demo"\ntrain = "demo"\n')
    assert not Teachers(store, shell.work, Settings(), [own]).is_standard("resnet_m", "fashion_demo")


def test_hub_weights_of_other_classes_are_no_teacher(shell):
    entry = shell.work / "hub.toml"
    entry.write_text('[[teachers]]\nmodel = "resnet18"\ndataset = "timm:folder/tiny"\nhub = "resnet18.a1_in1k"\n')
    pair = "resnet18>vit_xs@timm:folder/tiny"
    code, output = shell.run("--methods", "kd", "--teachers", str(entry), pairs=pair)
    assert code == 1 and "1000 classes" in output and "has 10" in output


def test_a_missing_teacher_file_is_asked_for_by_name(shell):
    entry = shell.work / "other.toml"
    entry.write_text('[[teachers]]\nmodel = "resnet_m"\ndataset = "timm:folder/tiny"\npath = "gone.pth"\n')
    code, output = shell.run("--methods", "kd", "--teachers", str(entry))
    assert code == 1 and "gone.pth" in output


VIT = "vit_m@timm:folder/tiny"
QUICK = ('extends = "demo_teacher"\ntitle = "quick"\nsource = "test"\nepochs = 1\n'
         'global_batch = 20\nlocal_batch = 20\n')  # fmt: skip


def teach(shell, *arguments):
    recipe = shell.work / "quick.toml"
    return shell("teacher", "train", VIT, "--recipe", str(recipe), *shell.places(), "--cpu", *arguments)


def test_a_teacher_of_ones_own_has_an_entry_that_hangs_on_no_file(shell):
    places = [*shell.places(), "--cpu"]
    own = shell.store / "teachers.toml"
    code, output = shell("teacher", "check", VIT, *places)
    assert code == 2 and "cakdbench teacher train" in output
    (shell.work / "quick.toml").write_text(QUICK)
    code, output = teach(shell)
    assert code == 0 and str(own) in output, output
    (shell.work / "quick.toml").unlink()  # the entry has its numbers
    entry = teachers_from_file(own)["vit_m", "timm:folder/tiny"]
    assert (entry.train, entry.training_recipe().epochs, len(entry.sha256)) == ("quick", 1, 64)
    assert str(shell.work) not in own.read_text()
    code, output = shell("teacher", "check", VIT, *places)
    assert code == 0 and entry.sha256 in output
    code, output = shell("teacher", "list", "--store", str(shell.store))
    assert VIT in output and "trained by quick" in output and "teachers.toml" in output
    pairs = "vit_m>resnet_s@timm:folder/tiny"
    settings = tuple(s for s in ONCE if s.startswith("recipe"))
    code, output = shell.run("--methods", "kd", pairs=pairs, settings=settings)
    assert code == 0 and "training first" not in output, output
    [taught] = [r for r in Store(shell.store).records()[0] if r.label == "kd"]
    assert taught.identity.teacher.sha256 == entry.sha256

    (shell.work / "quick.toml").write_text(QUICK.replace("epochs = 1", "epochs = 2"))
    code, output = teach(shell, "--seed", "3", "--set", "recipe.label_smoothing=0.2")
    assert code == 0 and "recipe.epochs = 2 (standard 1)" in output and "recipe.label_smoothing" in output
    [other] = teachers_from_file(own).values()
    assert other.seed == 3 and other.sha256 != entry.sha256

    [run] = [run for run in Store(shell.store).runs() if run.is_done and run.record().weights_sha256 == other.sha256]
    shutil.rmtree(run.path)
    code, output = shell.run("--methods", "kd", pairs=pairs, settings=settings)
    assert code == 1 and other.sha256[:16] in output and "teacher train" in output

    code, output = shell("teacher", "remove", VIT, "--store", str(shell.store))
    assert code == 0 and str(own) in output and not teachers_from_file(own)
    code, output = shell("teacher", "remove", VIT, "--store", str(shell.store))
    assert code == 2 and "teacher list" in output


def test_a_training_that_fails_leaves_no_entry(shell):
    places = [*shell.places(), "--cpu"]
    for name, word in (("vit_n@timm:folder/tiny", "vit_m"), ("vit_m@fashion_dem", "fashion_demo")):
        code, output = shell("teacher", "train", name, "--recipe", "demo_teacher", *places)
        assert code == 2 and word in output
    (shell.work / "quick.toml").write_text(QUICK + '[optimizer]\nname = "sgd"\nlr = 1e30\nweight_decay = 0.0\n')
    code, output = teach(shell)
    assert code == 1 and "failed" in output
    assert not list(shell.work.rglob("teachers.toml"))


def test_a_file_of_ones_own_keeps_what_else_is_in_it(finished):
    shell, _ = finished
    mine = shell.work / "mine.toml"
    entry = '[[teachers]]\nmodel = "{}"\ndataset = "timm:folder/tiny"\n{}\n\n'
    other = entry.format("vit_m", 'path = "vit.pth"  # from a friend')
    mine.write_text("# My teachers\n" + entry.format("resnet_m", 'train = "demo_teacher"') + other)
    command = ["teacher", "train", "resnet_m@timm:folder/tiny", *shell.places(), "--cpu", "--teachers", str(mine)]
    code, output = shell(*command, "--set", *(s for s in SHORT if s.startswith("teacher")))
    assert code == 0 and "epoch 1/" not in output, output  # it is the run that is there already
    text = mine.read_text()
    assert text.startswith("# My teachers\n[[teachers]]") and other.strip() in text
    assert teachers_from_file(mine)["resnet_m", "timm:folder/tiny"].recipe["epochs"] == 2
    assert shell(*command)[0] == 0 and mine.read_text() == text
    assert not (shell.store / "teachers.toml").exists()


@pytest.mark.parametrize("what", ["methods", "pairs", "datasets", "recipes", "teachers"])  # models: in test_zoo
def test_list_names_what_there_is(shell, what):
    wanted = {
        "methods": "fbt", "pairs": "cifar_all", "datasets": "fashion_demo", "recipes": "ofa_cifar_cnn",
        "teachers": "convnext_t@cifar100",
    }  # fmt: skip
    code, output = shell("list", what)
    assert code == 0 and wanted[what] in output


METHOD = """
from dataclasses import dataclass
from cakdbench.method import Batch, Method, Step
from cakdbench.registry import register

@register("{id}", title="Mine", paper="none", url="")
class Mine(Method):
    @dataclass(frozen=True)
    class Config:
        factor: float = {factor}

    @classmethod
    def refuses(cls, teacher, student, config):
        return "it has no taste for vit_xs" if config.factor < 0 else None

    def distill_step(self, batch: Batch) -> Step:
        logits = self.student(batch.images).logits
        return Step(logits, {{"label": self.config.factor * batch.label_loss(logits)}})
"""


def test_a_method_from_a_file_runs_and_a_diverging_one_fails_alone(taught):
    shell = taught
    good, bad = shell.work / "good.py", shell.work / "bad.py"
    good.write_text(METHOD.format(id="mine_good", factor=1.0))
    bad.write_text(METHOD.format(id="mine_bad", factor="float('nan')"))
    files = ["--method-file", str(good), "--method-file", str(bad)]
    code, output = shell.run("--methods", "mine_good,mine_bad", *files, settings=ONCE)
    assert code == 1
    assert "mine_bad" in output and "at step 0" in output
    assert set(records(shell)) == {"scratch", "kd", "mine_good"}
    assert "failed" in shell("status", "--store", str(shell.store))[1]


@pytest.mark.parametrize("text", ["def", "import nothing_of_this_name", "raise ValueError('no')"])
def test_a_broken_method_file_is_an_error_that_names_it(shell, text):
    broken = shell.work / "broken.py"
    broken.write_text(text)
    code, output = shell.run("--methods", "kd", "--method-file", str(broken))
    assert code == 2 and "broken.py" in output


MEETING = """
import os, time
from pathlib import Path

def meet():
    here = Path(__file__).parent
    (here / f"{os.getpid()}.here").touch()
    for _ in range(2400):
        if len(list(here.glob("*.here"))) == 2:
            return 1.0
        time.sleep(0.05)
    raise TimeoutError("the other process did not come")
"""


def test_a_failed_run_is_not_tried_again_by_the_other_process(taught):
    bad = taught.work / "bad.py"
    text = METHOD.format(id="mine_nan", factor="float('nan')")  # from epoch 1 on; before it each waits for the other
    bad.write_text(text.replace("self.config.factor *", "(self.config.factor if batch.epoch else meet()) *") + MEETING)
    pairs = "resnet_m>vit_xs@timm:folder/tiny,resnet_m>mixer_xs@timm:folder/tiny"
    arguments = ["--methods", "mine_nan", "--method-file", str(bad), "--max-lanes", "3"]
    programs = [taught.program(*arguments, pairs=pairs) for _ in range(2)]
    codes, outputs = zip(*(program.finish() for program in programs))
    assert codes == (1, 1), outputs
    told = "\n".join(outputs)
    assert told.count("mine_nan on resnet_m>vit_xs@timm:folder/tiny failed") == 1
    assert all(output.count("failed: mine_nan") == 2 for output in outputs)


def test_a_refusal_is_told_with_its_reason_and_is_no_failure(taught):
    shell = taught
    picky = shell.work / "picky.py"
    picky.write_text(METHOD.format(id="mine_picky", factor=-1.0))
    code, output = shell.run("--methods", "mine_picky", "--method-file", str(picky), settings=ONCE)
    assert code == 0 and "no taste for vit_xs" in output
    assert set(records(shell)) == {"scratch", "kd"}


def test_a_large_suite_without_a_gpu_is_announced_and_asked_for(shell, monkeypatch):
    if torch.cuda.is_available():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    shell.sure = False
    code, output = shell.run("--methods", "kd", settings=(*SHORT, "recipe.epochs=2000000"))
    assert code == 2
    assert "no GPU" in output and "about" in output and "--yes" in output


def test_a_store_that_cannot_be_written_is_an_error_that_names_the_place(shell):
    shell.store.write_text("a file where the folder should be")
    code, output = shell.run("--methods", "kd")
    assert code == 1 and str(shell.store) in output
    assert os.path.isfile(shell.store)


def test_a_full_disk_stops_the_run_with_its_reason_and_the_same_command_goes_on_later(shell):
    short = (*ONCE, "teacher.epochs=1")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))  # no checkpoint fits, small files do
    try:
        code, output = shell.run("--methods", "kd", settings=short)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert code == 1
    assert "cannot write" in output and "run the same command again" in output
    assert not list(shell.store.rglob("*.tmp"))
    code, output = shell.run("--methods", "kd", settings=short)
    assert code == 0, output
    assert set(records(shell)) == {"scratch", "kd"}


def test_a_trained_teacher_whose_weights_were_changed_is_trained_again(finished):
    shell, _ = finished
    teacher = next(r for r in Store(shell.store).records()[0] if r.recipe_name == "demo_teacher")
    path = Store(shell.store).run(teacher.identity).student
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    code, output = shell.run("--methods", "ofa", "--seeds", "1")
    assert code == 0 and f"damaged file {path}" in output and "is computed again" in output
    assert Store(shell.store).run(teacher.identity).record().weights_sha256 == teacher.weights_sha256


def test_a_finished_run_whose_files_are_gone_or_damaged_is_computed_again(finished):
    shell, _ = finished
    before = {record.key: record.weights_sha256 for record in Store(shell.store).records()[0]}
    teacher = next(r for r in Store(shell.store).records()[0] if r.recipe_name == "demo_teacher")
    student = Store(shell.store).run(teacher.identity).student
    predictions = Store(shell.store).run(records(shell)["kd"].identity).predictions
    student.unlink()
    predictions.write_bytes(predictions.read_bytes()[:-2])
    code, output = shell.run("--methods", "ofa,fbt")
    assert code == 0, output
    assert f"missing file {student}" in output and f"damaged file {predictions}" in output
    assert before == {record.key: record.weights_sha256 for record in Store(shell.store).records()[0]}


def test_bf16_and_channels_last_are_options_that_the_record_names(shell):
    pair = "resnet_m>mobilenet_s@timm:folder/tiny"
    short = (*ONCE, "teacher.epochs=1")
    code, output = shell.run("--methods", "fbt", "--precision", "bf16", "--channels-last", pairs=pair, settings=short)
    assert code == 0, output
    record = records(shell)["fbt"]
    assert (record.identity.precision, record.conditions.channels_last) == ("bf16", True)
    state = load_file(Store(shell.store).run(record.identity).student)
    assert state.keys() == StagedModel("mobilenet_s", 10, 64).export_state().keys()


def test_models_of_timm_by_name_are_trained_as_teacher_and_student(shell):
    recipe = shell.work / "quick.toml"
    recipe.write_text(
        'extends = "demo"\ntitle = "quick"\nsource = "test"\nepochs = 1\nglobal_batch = 20\nlocal_batch = 20\n'
    )
    name = "timm:resnet10t@timm:folder/tiny"
    code, output = shell("teacher", "train", name, "--recipe", str(recipe), *shell.places(), "--cpu")
    assert code == 0, output
    pair = "timm:resnet10t>timm:mobilenetv3_small_050@timm:folder/tiny"
    code, output = shell.run("--methods", "ofa,fbt", pairs=pair, settings=ONCE)
    assert code == 0, output
    assert {"scratch", "kd", "ofa"} <= set(records(shell))


def test_a_dry_run_without_the_data_still_shows_plan_and_estimate_and_what_is_missing(shell):
    pair = "swin_t>resnet18@cifar100"
    arguments = ["--pairs", pair, "--methods", "kd", *shell.places(), "--cpu", "--dry-run"]
    code, output = shell("run", *arguments, "--set", "recipe.image_size=64")
    assert code == 0, output
    assert all(word in output for word in ("estimate: about", "missing before it can start", "cifar-100-python"))

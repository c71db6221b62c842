"""Chains of runs and several teachers, from the command line to the records: each run once, whatever is killed."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from cakdbench.cli.changed import changed_listings
from cakdbench.engine.launch.assignment import Assignment
from cakdbench.engine.launch.dispatch import Dispatcher, assign, labour
from cakdbench.engine.launch.said import Sayings
from cakdbench.engine.options import from_json, run_options, to_json
from cakdbench.engine.session import Session
from cakdbench.engine.tape_plan import TapedEpochs, plan_tapes
from cakdbench.method import Method
from cakdbench.methods.kd import KD
from cakdbench.records import Record
from cakdbench.registry import register
from cakdbench.store import Store
from cakdbench.submissions.bundle import read_bundle
from cakdbench.submissions.checks.crossing import check_run_teachers
from cakdbench.submissions.submit import Submitter, find_runs, submit
from cakdbench.submissions.truth import Truth
from cakdbench.submissions.validate import validate
from cakdbench.utils.errors import UsageError
from tests.cli_lab import SHORT, Program, Shell
from tests.engine.chain_lab import AT, FIRST, PAIRS, RUNS, SECOND, two_teachers
from tests.engine.test_kill import Ordeal, results
from tests.engine.test_session import Said


@pytest.fixture(scope="module")
def teachers(tiny, tmp_path_factory) -> Path:
    """A file with entries of two teachers."""
    return two_teachers(tmp_path_factory.mktemp("entries"))


def command(tiny: Path, work: Path, teachers: Path, *more: str) -> list[str]:
    words = "--methods", "kd", "--teachers", str(teachers), "--checkpoint-seconds", "0.05", *more
    return Shell(tiny, work).command(*words, pairs=PAIRS)


@pytest.fixture(scope="module")
def calm(tiny, teachers, tmp_path_factory) -> Path:
    """The folder of the grid when nothing happens."""
    work = tmp_path_factory.mktemp("calm")
    code, output = Program(*command(tiny, work, teachers)).finish()
    assert code == 0, output
    return work


def run_of(work: Path, student: str, label: str = "kd") -> Record:
    records = Store(work / "runs").records()[0]
    return next(r for r in records if (r.label, r.identity.student) == (label, student))


def test_each_run_learns_from_the_student_of_the_one_before(calm):
    first, second, third = (run_of(calm, name) for name in ("vit_xs", "mobilenet_s", "resnet_s"))
    for run, teacher in ((second, first), (third, second)):
        identity = run.identity.teacher
        assert (identity.model, identity.sha256) == (teacher.identity.student, teacher.weights_sha256)
        assert run.teacher.source == f"run {teacher.key}" and not run.teacher.standard
        assert run.teacher.measured == run.teacher.expected == teacher.result.top1
    assert len(Store(calm / "runs").records()[0]) == RUNS


def test_two_teachers_are_in_the_key_each_with_its_weights(calm):
    both, taught = run_of(calm, "mixer_xs"), run_of(calm, "mixer_xs").identity.teacher
    weights = [run_of(calm, name, "scratch").weights_sha256 for name in ("resnet_m", "swin_m")]
    assert taught.model == "resnet_m+swin_m" and [each.sha256 for each in taught.several] == weights
    assert taught.sha256 not in weights and both.identity.pair == f"resnet_m+swin_m>mixer_xs@{AT}"
    assert both.teacher.expected is None and both.teacher.source == "trained by demo_teacher + trained by demo_teacher"


def test_of_one_teacher_nothing_is_written_otherwise(calm):
    record = json.loads((calm / "runs" / run_of(calm, "vit_xs").key / "record.json").read_text())
    assert "several" not in record["identity"]["teacher"]


MOMENTS = ("resnet_m+swin_m > mixer_xs", "> mobilenet_s @", "> resnet_s @")


def test_killed_in_every_link_it_goes_on_to_the_same_weights_and_repeats_nothing(tiny, teachers, tmp_path, calm):
    ordeal = Ordeal()
    for moment in MOMENTS:
        program = Program(*command(tiny, tmp_path, teachers))
        program.wait_for("start: ", moment, "kd")
        program.wait_for("kd: epoch 1/2")
        program.process.kill()
        code, output = program.finish()
        assert code == -signal.SIGKILL, output
        ordeal.look(tmp_path / "runs")
    code, output = Program(*command(tiny, tmp_path, teachers, "--jobs", "2")).finish()
    assert code == 0, output
    ordeal.look(tmp_path / "runs")
    assert (ordeal.lost, ordeal.repeated) == ([], [])
    assert results(tmp_path / "runs") == results(calm / "runs")


def test_the_same_command_again_and_the_run_by_its_key_train_nothing(tiny, teachers, calm):
    before = results(calm / "runs")
    key = run_of(calm, "mobilenet_s").key
    for pairs in (PAIRS, f"run:{key}>resnet_s@{AT}", f"run:{key[:12]}>resnet_s@{AT}"):
        words = Shell(tiny, calm).command("--methods", "kd", "--teachers", str(teachers), pairs=pairs)
        code, output = Program(*words).finish()
        assert code == 0 and "start: " not in output, output
    assert results(calm / "runs") == before


def test_a_dry_run_shows_the_chain_and_what_is_done(tiny, teachers, calm, tmp_path):
    code, output = Shell(tiny, calm)(*command(tiny, calm, teachers, "--dry-run"))
    assert code == 0 and "6 done" in output and f"{FIRST}>mobilenet_s@{AT}" in output, output
    preview = Session(options(tiny, tmp_path, teachers)).preview
    assert not preview.obstacles and [state for _, state in preview.states] == ["planned"] * 6
    assert {cell.pair.student for cell in preview.trainings} == {"resnet_m", "swin_m"}


def test_with_changed_settings_each_chain_stands_under_its_own_name(tiny, teachers, calm):
    session = Session(options(tiny, calm, teachers))
    (listing,) = changed_listings(session)
    rows = {row.pop("method"): row for row in listing.rows}
    tops = {f"{SECOND}>resnet_s@{AT}": "resnet_s", f"{FIRST}>mobilenet_s@{AT}": "mobilenet_s"}
    for pair, student in tops.items():
        assert rows["kd"][pair].startswith(f"{run_of(calm, student).result.top1:.2f} (")
    assert rows["kd"].keys() == {*tops, FIRST.removeprefix("run:kd:"), f"resnet_m+swin_m>mixer_xs@{AT}"}
    assert "registry's (run" not in listing.title and "recipe.epochs = 2" in listing.title
    assert not [*changed_listings(session, {record.key for record in session.store.records()[0]})]


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (f"run:nope>resnet_s@{AT}", "unknown finished run 'nope'"),
        ("run:kd-mobilenet_s>resnet_s@fashion_demo", f"learnt {AT}: it cannot teach fashion_demo"),
    ],
)
def test_a_run_that_cannot_teach_is_said_in_a_line(tiny, calm, pairs, words):
    code, output = Shell(tiny, calm).run("--methods", "kd", pairs=pairs)
    assert code == 2 and words in output and "Traceback" not in output


class Broken(KD):
    """Raises in its first step."""

    def distill_step(self, batch):
        raise RuntimeError("no step")


def options(tiny: Path, work: Path, teachers: Path, **more):
    places = {"store": work / "runs", "teacher_dir": work, "data_dir": tiny, "teacher_files": (teachers,), "cpu": True}
    return run_options(**({"methods": "kd", "pairs": PAIRS, "recipe": "demo", "settings": SHORT} | places | more))


def test_a_link_that_fails_takes_with_it_what_learns_from_it_and_nothing_else(tiny, teachers, tmp_path):
    register("broken", title="B", paper="-", url="https://example.org")(Broken)
    chain = f"run:broken:resnet_m>vit_xs@{AT}"
    session = Session(options(tiny, tmp_path, teachers, pairs=f"{chain}>resnet_s@{AT},resnet_m>mobilenet_s@{AT}"))
    outcome = session.run()
    failed, dropped = sorted(outcome.failed.items())
    assert failed[0].startswith("broken-vit_xs-") and "no step" in failed[1]
    assert dropped == (f"kd on {chain}>resnet_s@{AT}, seed 0", f"{chain} could not be made")
    assert sorted(key.partition("-s0-")[0] for key in outcome.done) == [
        "kd-mobilenet_s-timm-folder-tiny",
        "scratch-mobilenet_s-timm-folder-tiny",
        "scratch-resnet_s-timm-folder-tiny",
    ]


class Here:
    """A crew whose workers do what those on other machines do, one after the other, in this process."""

    def __init__(self, text: str):
        self.text, self.workers = text, 0

    def places(self) -> int:
        return 1

    def at_work(self) -> int:
        return 0

    def start(self, count: int) -> None:
        self.workers += 1
        error = labour(self.text, 1, self.workers, lambda: False)
        assert error is None, error
        folder = from_json(Assignment, self.text).said
        assert folder is not None
        Sayings(folder).say("a checkpoint is damaged")

    def ended(self) -> list[str]:
        return []

    def leave(self) -> str:
        return ""


def test_workers_on_other_machines_take_the_links_in_order(tiny, teachers, tmp_path, calm):
    own = options(tiny, tmp_path, teachers)
    session = Session(own, said := Said())
    session.store.create()
    work = assign(session.plan.cells, session.harness, own)
    crew, verifier = Here(to_json(work)), Here(to_json(replace(work, verify=True)))
    outcome = Dispatcher(crew, verifier, session.harness, said=work.said).run(session.plan.cells)
    assert not outcome.failed and results(tmp_path / "runs") == results(calm / "runs")
    assert crew.workers == 2 + 3 + 2  # teachers; three groups of the first wave; a link each
    assert verifier.workers == 3  # one a wave
    assert said.sentences.count("a checkpoint is damaged") == 1 and work.said and not work.said.exists()


def test_a_tape_serves_the_students_of_a_run_and_several_teachers_do_without(tiny, teachers, tmp_path, calm):
    code, output = Program(*command(tiny, tmp_path, teachers, "--tape")).finish()
    assert code == 0, output
    assert results(tmp_path / "runs") == results(calm / "runs")
    tapes = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "runs" / "tapes").iterdir())
    assert tapes == [f"{model}-timm-folder-tiny-s0" for model in ("mobilenet_s", "resnet_m", "vit_xs")]
    session = Session(options(tiny, tmp_path, teachers, tape=("logits", "pooled")))
    cells = [cell for cell in session.plan.cells if cell.label == "kd"]
    plan, taped = plan_tapes(session.harness, cells), TapedEpochs(session.harness)
    assert str(plan) == "nothing left to record; asked live, as several teachers at once are: resnet_m+swin_m"
    assert {cell.pair.student: taped([cell]) for cell in cells} == {
        "vit_xs": 2, "mobilenet_s": 2, "resnet_s": 2, "mixer_xs": 0,
    }  # fmt: skip


def test_an_entry_may_name_a_finished_run(tiny, teachers, calm, tmp_path):
    run = run_of(calm, "vit_xs")
    own = tmp_path / "own.toml"
    own.write_text(f'[[teachers]]\nmodel = "vit_xs"\ndataset = "{AT}"\nrun = "{run.key}"\n')
    session = Session(options(tiny, calm, own, pairs=f"vit_xs>mobilenet_s@{AT}"))
    assert run_of(calm, "mobilenet_s").key in session.run().done


@pytest.mark.parametrize("name", [SECOND, SECOND.replace("run:kd:", "run:kd[temperature=1.0]:")])
def test_a_student_starts_from_the_end_of_a_chain_by_its_name(tiny, teachers, calm, name):
    settings = *SHORT, f"recipe.init={name}"
    session = Session(options(tiny, calm, teachers, pairs=f"swin_m>mobilenet_s@{AT}", settings=settings))
    assert not session.preview.obstacles
    key = session.harness.inits.key(session.plan.cells[0].recipe, 0)
    assert key == f"sha256:{run_of(calm, 'mobilenet_s').weights_sha256}"


def test_such_runs_can_be_submitted_and_are_checked(calm, tmp_path):
    results, store = tmp_path / "results", Store(calm / "runs")
    done = submit(find_runs(["kd"], store), results, Submitter("A. Student"))
    assert len(done.written) == 2 * 4 and not [finding for finding in done.findings if finding.refused], done
    path = results / "kd" / f"{run_of(calm, 'mixer_xs').key}.json"
    entry = json.loads(path.read_text())
    entry["record"]["identity"]["teacher"]["several"].reverse()
    path.write_text(json.dumps(entry))
    refused = [str(finding) for finding in validate(results, Truth(tmp_path / "labels")).refused]
    assert len(refused) == 1 and "its teacher is not what teacher.several joins" in refused[0], refused


def test_an_entry_is_not_taught_by_other_weights_than_those_of_the_run_it_names(calm, tmp_path):
    results, store = tmp_path / "results", Store(calm / "runs")
    submit(find_runs(["kd"], store), results, Submitter("A. Student"))
    entries = read_bundle(results).entries
    assert not [*check_run_teachers(entries)]
    other = next(entry for entry in entries if entry.identity.student == "vit_xs")
    record = other.record.model_copy(update={"weights_sha256": "0" * 64})
    forged = replace(other, entry=other.entry.model_copy(update={"record": record}))
    (finding,) = check_run_teachers([forged if entry is other else entry for entry in entries])
    assert "mobilenet_s" in finding.file and f"are not those of {other.file}" in str(finding)


def test_only_methods_that_can_take_several_teachers(tiny, teachers, tmp_path):
    class Alone(Method):
        """Needs a teacher, and says nothing of several."""

    register("alone", title="A", paper="-", url="https://example.org")(Alone)
    session = Session(options(tiny, tmp_path, teachers, methods="alone", pairs=f"resnet_m+swin_m>vit_xs@{AT}"))
    assert [refusal.reason for refusal in session.plan.refusals] == [
        "alone learns from one teacher, and resnet_m+swin_m are 2"
    ]
    with pytest.raises(UsageError, match="unknown model 'swin_x'"):
        Session(options(tiny, tmp_path, teachers, pairs=f"resnet_m+swin_x>vit_xs@{AT}")).plan  # noqa: B018

"""Analyses of students of several teachers, and of students of runs: on edited runs of the demo board."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import cakdbench
from cakdbench.analysis import agreement
from cakdbench.analysis.methods import _teacher
from cakdbench.analysis.networks import open_gallery
from cakdbench.models.weights import weights_sha256
from cakdbench.store import Store
from cakdbench.utils.errors import UsageError
from tests.analysis.links import of, record_of, taught
from tests.cli_lab import SHORT, Shell
from tests.results.lab import LABELS, copy_run

AT = "fashion_demo"
BOTH = f"resnet_m+swin_m>vit_xs@{AT}"
RIGHT = np.load(next(LABELS.glob("fashion_demo-*.npy")))


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A store with kd and ofd of two teachers, scratch, and the teachers."""
    store = tmp_path_factory.mktemp("several") / "runs"
    teachers = [of("scratch", name, "demo_teacher")[0] for name in ("resnet_m", "swin_m")]
    for path in (*teachers, *of("scratch", "vit_xs").values()):
        copy_run(store, path)
    for method in ("kd", "ofd"):
        for path in of(method, "vit_xs").values():
            taught(store, path, [record_of(t) for t in teachers], 2 * ["trained by demo_teacher"], True)
    return store


def answers(method: str, student: str, seed: int, recipe: str = "demo") -> np.ndarray:
    return np.load(of(method, student, recipe)[seed].with_suffix(".npy"))


def test_each_of_several_teachers_is_compared_by_itself(several):
    frame = agreement(cakdbench.load_results(several), BOTH).set_index(["first", "second"])
    names = [f"teacher {number} ({name})" for number, name in ((1, "resnet_m"), (2, "swin_m"))]
    assert [*frame.index.levels[0]] == sorted(["kd", "ofd", "scratch", *names])
    for name, model in zip(names, ("resnet_m", "swin_m")):
        teacher = answers("scratch", model, 0, "demo_teacher")
        equal = [np.mean(teacher == answers("kd", "vit_xs", seed)) for seed in (0, 1, 2)]
        assert frame.loc[name, "kd"].n == 3
        assert frame.loc[name, "kd"].agreement == pytest.approx(100 * np.mean(equal))
        assert frame.loc[name, "kd"].agreement == frame.loc["kd", name].agreement
    first, second = (answers("scratch", model, 0, "demo_teacher") for model in ("resnet_m", "swin_m"))
    assert frame.loc[tuple(names)].n == 1
    assert frame.loc[tuple(names)].agreement == pytest.approx(100 * np.mean(first == second))
    assert np.isnan(frame.loc[names[0], names[0]].agreement)


@pytest.fixture(scope="module")
def chained(tmp_path_factory):
    """A store in which students of kd and of ofd, of three seeds each, taught kd's students of one model."""
    store = tmp_path_factory.mktemp("chained") / "runs"
    links = {}
    for method in ("kd", "ofd"):
        for seed, path in of(method, "vit_xs").items():
            links[method, seed] = copy_run(store, path)
    for (_, seed), link in links.items():
        teacher = json.loads((link / "record.json").read_bytes())
        taught(store, of("kd", "mixer_xs")[seed], [teacher], [f"run {link.name}"], False)
    return store, {name: link.name for name, link in links.items()}


def chain(method: str) -> str:
    return f"run:{method}:resnet_m>vit_xs@{AT}>mixer_xs@{AT}"


@pytest.mark.parametrize("method", ["kd", "ofd"])
def test_a_student_of_a_run_is_compared_with_the_run_of_its_seed(chained, method):
    frame = agreement(cakdbench.load_results(chained[0]), chain(method)).set_index(["first", "second"])
    row = frame.loc["teacher", "kd"]
    equal = [np.mean(answers(method, "vit_xs", seed) == answers("kd", "mixer_xs", seed)) for seed in (0, 1, 2)]
    assert row.n == 3 and row.agreement == pytest.approx(100 * np.mean(equal))
    assert frame.loc["teacher", "teacher"].n == 3


def test_a_run_by_its_key_taught_the_run_of_one_seed(chained):
    store, links = chained
    pair = f"run:{links['ofd', 1]}>mixer_xs@{AT}"
    row = agreement(cakdbench.load_results(store), pair).set_index(["first", "second"]).loc["teacher", "kd"]
    wrong = answers("ofd", "vit_xs", 1) != RIGHT, answers("kd", "mixer_xs", 1) != RIGHT
    assert row.n == 1
    assert row.shared_errors == pytest.approx(100 * np.sum(wrong[0] & wrong[1]) / np.sum(wrong[0] | wrong[1]))


def test_by_its_models_alone_a_chain_is_refused_with_the_name_to_give(chained):
    with pytest.raises(UsageError, match="count: a teacher that is not the .*name the pair with .*, run:kd-.*>mixer"):
        agreement(cakdbench.load_results(chained[0]), f"vit_xs>mixer_xs@{AT}")
    with pytest.raises(UsageError, match="no predictions of runs on run:dkd:.*pairs at hand: .*vit_xs>mixer_xs"):
        agreement(cakdbench.load_results(chained[0]), chain("dkd"))


def test_a_run_that_taught_and_is_gone_is_named(chained, tmp_path):
    """In the place of advice to train its model, which would be another teacher."""
    record = next(r for r in Store(chained[0]).records()[0] if r.identity.student == "mixer_xs")
    teachers = SimpleNamespace(store=Store(tmp_path / "runs"))
    with pytest.raises(UsageError, match=f"was taught by the {record.teacher.source}: bring its folder to .*runs$"):
        _teacher(SimpleNamespace(record=record, recipe=None), None, teachers)


def test_of_two_runs_of_a_seed_none_is_guessed(several):
    runs = cakdbench.load_results(several)
    twins = runs[runs["method"] == "kd"].assign(key=lambda frame: "z-" + frame["key"])
    with pytest.raises(UsageError, match="several runs of kd, seed 0, as kd-.* and z-kd-.*name their teacher by its"):
        agreement(pd.concat([runs, twins]), BOTH)


METHOD = '''"""Bring the student's feature to that of each teacher."""

from dataclasses import dataclass

from torch import nn
from torch.nn import functional

from cakdbench.method import Method, Step, mean_loss
from cakdbench.registry import register


@register("both", title="Both", paper="-", url="https://example.org", kind="features")
class Both(Method):
    needs = frozenset({"logits", "pooled"})
    several_teachers = "losses"

    def build(self):
        members = self.teacher.info.members or (self.teacher.info,)
        self.into = nn.ModuleList(nn.Linear(self.student.width, info.width) for info in members)

    def distill_step(self, batch):
        own = self.student(batch.images)
        pairs = zip(self.into, batch.teachers)
        losses = [functional.mse_loss(into(own.pooled), teacher.pooled) for into, teacher in pairs]
        return Step(own.logits, {"label": batch.label_loss(own.logits), "feature": mean_loss(losses)})

    def projected(self, images):
        own, teachers = self.student(images).pooled, self.teacher(images).each
        return {f"of {n}": (into(own), each.pooled) for n, (into, each) in enumerate(zip(self.into, teachers), 1)}
'''
TINY = "timm:folder/tiny"


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> Shell:
    """Short runs of two teachers that kept their modules."""
    shell = Shell(tiny, tmp_path_factory.mktemp("trained"))
    entry = (tiny / "teachers.toml").read_text()
    names = ("resnet_s", "mixer_xs")
    (shell.work / "two.toml").write_text("".join(entry.replace("resnet_m", name) for name in names))
    (shell.work / "both.py").write_text(METHOD)
    words = ("--methods", "ofa,both", "--keep", "modules", "--teachers", str(shell.work / "two.toml"))
    more = (*SHORT, "recipe.epochs=1", "teacher.epochs=1")
    pair = f"{'+'.join(names)}>vit_xs@{TINY}"
    code, text = shell.run(*words, "--method-file", str(shell.work / "both.py"), pairs=pair, settings=more)
    assert code == 0, text
    return shell


class TestOfSeveralTeachers:
    def analyse(self, trained, kind, *words):
        to = trained.work / f"analysis-{kind}"
        more = ("--method-file", str(trained.work / "both.py")) * (kind in ("similarity", "attention"))
        return *trained("analyse", kind, *trained.places(), "--to", str(to), *more, *words), to

    def test_features_are_compared_with_each_teacher_as_the_run_kept_it(self, trained):
        code, text, to = self.analyse(trained, "similarity", "both-", "--measure", "projected", "--images", "30")
        assert code == 0, text
        found = pd.read_csv(to / "similarity-projected.csv").set_index("space")
        gallery = open_gallery(["both-"], Store(trained.store), trained.work, trained.data)
        method, images = gallery.method(gallery.networks[0]), torch.cat(list(gallery.images(30)))
        made = {run.identity().student: run.record().weights_sha256 for run in Store(trained.store).runs()
                if run.key.startswith("scratch")}  # fmt: skip
        assert [weights_sha256(each) for each in method.teacher.members] == [made["resnet_s"], made["mixer_xs"]]
        with torch.no_grad():
            own = method.student(images).pooled
            for number, (into, teacher) in enumerate(zip(method.into, method.teacher.members), 1):
                ours, theirs = into(own), teacher(images).pooled
                cosine = torch.cosine_similarity(ours - ours.mean(0), theirs - theirs.mean(0)).mean()
                assert found.loc[f"of {number}", "cosine"] == pytest.approx(float(cosine), abs=1e-4)

    def test_what_needs_the_student_alone_is_drawn_without_its_teachers(self, trained):
        teachers = [*trained.store.glob("scratch-resnet_s-*")]
        aside = [path.rename(trained.work / path.name) for path in teachers]
        kinds = ("similarity", "features", "attention")
        codes = [self.analyse(trained, kind, "ofa-", "--images", "20")[:2] for kind in kinds]
        for path, place in zip(aside, teachers):
            path.rename(place)
        assert [code for code, _ in codes] == [0, 0, 0], codes
        assert (trained.work / "analysis-attention" / "attention.csv").is_file()

    def test_a_teacher_that_is_gone_is_said_in_a_line(self, trained):
        (teacher,) = trained.store.glob("scratch-resnet_s-*")
        aside = teacher.rename(trained.work / teacher.name)
        code, text, _ = self.analyse(trained, "similarity", "both-", "--measure", "projected")
        aside.rename(teacher)
        assert code != 0 and "resnet_s" in text and len(text.strip().splitlines()) == 1, text

    def test_a_run_is_found_by_the_name_of_its_pair(self, trained):
        name = f"run:ofa:resnet_s+mixer_xs>vit_xs@{TINY}"
        gallery = open_gallery([name], Store(trained.store), trained.work, trained.data)
        assert gallery.networks[0].run.key.startswith("ofa-vit_xs")

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            (f"resnet_s+mixer_xs@{TINY}", f"several networks: name each of them, resnet_s@{TINY} mixer_xs@{TINY}"),
            (f"run:dkd:resnet_s+mixer_xs>vit_xs@{TINY}", "means no finished runs in"),
            ("run:nothing", "nothing"),
        ],
    )
    def test_what_names_no_network_is_said_in_a_line(self, trained, name, words):
        code, text, _ = self.analyse(trained, "features", name)
        assert code == 2 and words in text and len(text.strip().splitlines()) == 1, text

"""`cakdbench analyse`: what it writes, and what it says of names that stand for nothing."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from cakdbench.analysis.networks import open_gallery
from cakdbench.data.datasets import load_dataset
from cakdbench.data.splits import Split
from cakdbench.data.stream import EvalStream
from cakdbench.store import Store
from tests.cli_lab import SHORT, Shell

TEACHERS = Path(__file__).parents[2] / "leaderboards/teachers"


@pytest.fixture
def store(tmp_path):
    return shutil.copytree(TEACHERS, tmp_path / "runs")


def test_runs_and_teachers_are_compared_with_numbers_and_pictures(shell, store):
    run = next(store.glob("*swin*")).name
    code, text = shell("analyse", "similarity", run, "resnet_m@fashion_demo", "--store", str(store), "--images", "70")
    assert code == 0, text
    frame = pd.read_csv("analysis/similarity-cka-1.csv")
    assert list(frame["first"]) == ["stage 1", "stage 2", "stage 3", "stage 4", "final"]
    assert frame.drop(columns="first").apply(lambda column: column.between(0, 1).all()).all()
    assert Image.open("analysis/similarity-cka-1.png").width > 400
    assert Path("analysis/similarity-cka-1.svg").read_text().count("linear CKA") >= 2


def test_maps_have_an_image_a_row_and_their_values_in_a_file(shell, store):
    code, text = shell("analyse", "attention", "swin_m@fashion_demo", "--store", str(store), "--images", "3")
    assert code == 0, text
    frame = pd.read_csv("analysis/attention.csv")
    assert set(frame["image"]) == {0, 1, 2} and frame.groupby("image")["value"].sum().between(0.99, 1.01).all()
    code, text = shell("analyse", "features", "resnet_m@fashion_demo", "--store", str(store), "--images", "2")
    assert code == 0 and set(pd.read_csv("analysis/features-1.csv")["map"]) == {f"stage {n}" for n in range(1, 5)}


def test_more_images_than_a_batch_are_drawn_evenly_picked(shell, store):
    data = load_dataset("fashion_demo")
    gallery = open_gallery(["resnet_m@fashion_demo"], Store(store), Path("teachers"), None)
    picked = np.linspace(0, len(data.test) - 1, 70).round().astype(int)
    seen = gallery.seen(70)
    assert len(seen) == 70
    for place in (0, 65, 69):
        alone = Split(data.test.labels[picked[[place]]], lambda _, at=picked[place]: data.test.image(int(at)))
        ((image, _, _),) = EvalStream(alone, data, gallery.recipe)
        assert torch.equal(image[0], seen[place])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("similarity", "nothing"), "nothing"),
        (("similarity", "resnet_m@fashion_dem", "swin_m@fashion_demo"), "'fashion_dem'; did you mean fashion_demo"),
        (("features", "resnt_m@fashion_demo"), "'resnt_m'; did you mean resnet_m"),
        (("similarity", "swin_m@fashion_demo", "resnet_m@cifar100"), "of different datasets"),
        (("attention", "resnet_m@fashion_demo"), "has no attention"),
        (
            ("similarity", "swin_m@fashion_demo", "--measure", "projected"),
            "is a teacher: name a run that was made with",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(shell, store, arguments, words):
    code, text = shell("analyse", *arguments, "--store", str(store))
    assert code == 2 and words in text and "Traceback" not in text


def again(shell: Shell, *words: str) -> tuple[int, str]:
    more = "recipe.epochs=1", "teacher.epochs=1", "fofa.n_q=16", "fofa.dim=32"
    kept = "--methods", "fofa,pcagl", "--keep", "modules", "--teachers", str(shell.work / "more.toml")
    return shell.run(*kept, *words, pairs="vit_xs>resnet_s@timm:folder/tiny", settings=(*SHORT, *more))


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> Shell:
    """Two short runs that kept their modules; their teacher's training differs from its entry."""
    shell = Shell(tiny, tmp_path_factory.mktemp("kept"))
    teachers = shell.work / "more.toml"
    teachers.write_text((tiny / "teachers.toml").read_text().replace("resnet_m", "vit_xs"))
    code, text = again(shell)
    assert code == 0, text
    return shell


class TestOfWhatAMethodTrains:
    """FOFA's regions and PCA/GL's projectors, of runs that kept their modules."""

    def analyse(self, trained, kind, *words):
        to = trained.work / "analysis"
        return *trained("analyse", kind, *trained.places(), "--to", str(to), *words), to

    def test_attention_of_a_method_is_drawn_by_stage_and_by_who_looks_where(self, trained):
        code, text, to = self.analyse(trained, "attention", "fofa-", "--images", "2")
        assert code == 0, text
        maps = pd.read_csv(to / "attention-own-1.csv")
        assert set(maps["map"]) == {f"stage {n}" for n in range(1, 5)} and len(maps) == 2 * 16
        assert maps.groupby("image")["value"].sum().to_numpy() == pytest.approx(1, abs=1e-5)
        flow = pd.read_csv(to / "attention-own-1-flow.csv", index_col="from")
        assert flow.sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
        assert Image.open(to / "attention-own-1.png").width > 400
        assert not (to / "attention.csv").exists()  # the student is a CNN

    def test_attention_that_was_not_kept_is_told(self, trained):
        modules = Store(trained.store).find("fofa-").modules
        aside = modules.rename(modules.with_suffix(".aside"))
        code, text, _ = self.analyse(trained, "attention", "fofa-", "scratch-vit_xs", "--images", "2")
        aside.rename(modules)
        assert "not the attention of fofa itself, whose modules were not kept: remove" in text, text

    def test_what_was_not_kept_of_finished_runs_is_told(self, trained):
        modules = Store(trained.store).find("pcagl-").modules
        aside = modules.rename(modules.with_suffix(".aside"))
        code, text = again(trained, "--dry-run")
        aside.rename(modules)
        assert code == 0 and f"{modules.parent.name} (modules)" in text and "fofa-" not in text.partition("asks")[2], (
            text
        )

    def test_features_are_compared_as_the_projectors_that_were_kept_bring_them(self, trained):
        code, text, to = self.analyse(trained, "similarity", "pcagl-", "--measure", "projected", "--images", "30")
        assert code == 0, text
        found = pd.read_csv(to / "similarity-projected.csv").set_index("space")
        gallery = open_gallery(["pcagl-"], Store(trained.store), trained.work, trained.data)
        images = torch.cat(list(gallery.images(30)))
        with torch.no_grad():
            ours, theirs = gallery.method(gallery.networks[0]).projected(images)["tokens (GL)"]
        cosines = F.cosine_similarity(ours - ours.mean(0), theirs - theirs.mean(0))
        assert found.loc["tokens (GL)", "cosine"] == pytest.approx(float(cosines.mean()), abs=1e-4)
        assert np.isfinite(found.loc["attention output (PCA)", ["cosine", "cka"]].astype(float)).all()

    def test_a_method_that_projects_nothing_says_so(self, trained):
        code, text, _ = self.analyse(trained, "similarity", "kd-", "--measure", "projected")
        assert code == 2 and "kd brings no features of the student into a space of the teacher's" in text

    def test_modules_that_were_not_kept_are_asked_for(self, trained):
        modules = Store(trained.store).find("pcagl-").modules
        aside = modules.rename(modules.with_suffix(".aside"))
        code, text, _ = self.analyse(trained, "similarity", "pcagl-", "--measure", "projected")
        aside.rename(modules)
        assert code == 2 and "its modules were not kept; remove" in text and "run it with --keep modules" in text

    def test_a_teacher_that_is_not_at_hand_is_asked_for(self, trained, tmp_path):
        run = Store(trained.store).find("pcagl-").path
        shutil.copytree(run, tmp_path / run.name)
        elsewhere = "--measure", "projected", "--store", str(tmp_path)
        code, text, _ = self.analyse(trained, "similarity", "pcagl-", *elsewhere)
        assert code == 2 and "no teacher vit_xs for timm:folder/tiny: train one" in text

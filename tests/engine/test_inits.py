"""What students start from: the weights, and what a key has of them."""

import json

import pytest
import torch

from cakdbench.engine.inits import Inits
from cakdbench.models.staged import StagedModel
from cakdbench.models.weights import state_sha256
from cakdbench.recipes import load_recipe
from cakdbench.store import Store
from cakdbench.students.weights import read_weights, weight_bytes
from cakdbench.utils.errors import UsageError, WeightsError
from tests.students.lab import FACTS, finished_run


def recipe(init, head="keep"):
    return load_recipe("demo").override({"init": init, "init_head": head})


@pytest.fixture
def inits(tmp_path):
    return Inits(Store(tmp_path / "runs"))


@pytest.fixture
def weights(tmp_path):
    """A file of a network for three classes, and its state."""
    torch.manual_seed(1)
    state = StagedModel("resnet_s", 3, 64).export_state()
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    return f"file:{tmp_path / 'w.pth'}", state


def test_a_file_gives_all_weights_and_its_content_is_in_the_key(inits, weights):
    init, state = weights
    made = inits.student("resnet_s", 3, recipe(init), 0).export_state()
    assert all(torch.equal(made[name], value) for name, value in state.items())
    assert inits.key(recipe(init), 0) == f"sha256:{state_sha256(state)}"
    assert inits.key(recipe("random"), 0) == "random"


def test_random_weights_depend_on_the_seed_alone(inits):
    one, same, other = (inits.student("resnet_s", 3, recipe("random"), seed).export_state() for seed in (0, 0, 1))
    assert torch.equal(one["fc.weight"], same["fc.weight"]) and not torch.equal(one["fc.weight"], other["fc.weight"])


def test_a_head_of_other_classes_begins_anew_only_if_asked_for(inits, weights):
    init, state = weights
    with pytest.raises(WeightsError, match="the student resnet_s cannot start from .*3 classes.*init_head=new"):
        inits.student("resnet_s", 5, recipe(init), 0)
    made = inits.student("resnet_s", 5, recipe(init, "new"), 0).export_state()
    assert made["fc.weight"].shape[0] == 5
    assert all(torch.equal(made[name], value) for name, value in state.items() if not name.startswith("fc."))
    fresh = inits.student("resnet_s", 5, recipe("random"), 0).export_state()
    assert torch.equal(made["fc.weight"], fresh["fc.weight"])


@pytest.mark.parametrize(
    ("name", "init", "words"),
    [
        ("vit_xs", None, "does not fit vit_xs"),
        ("resnet_s", "file:gone.pth", "gone.pth cannot be read"),
        ("resnet_s", "run:scratch", "unknown finished run 'scratch'"),
        ("resnet_s", "sha256:" + 64 * "0", "name a file or a run"),
        ("resnet_s", "hub", "no hub weights exist for resnet_s"),
    ],
)
def test_what_cannot_be_had_is_said_of_the_student(inits, weights, name, init, words):
    with pytest.raises(WeightsError, match=f"the student {name} cannot start from .*{words}"):
        inits.student(name, 3, recipe(init or weights[0]), 0)


def test_a_run_with_other_weights_than_its_record_says_is_no_start(inits):
    run = finished_run(inits.store, "resnet_s", image_size=64)
    init = recipe(f"run:{run.key}")
    state, _ = read_weights(run.student)
    record = json.loads(run.record_file.read_text()) | {"weights_sha256": state_sha256(state)}
    run.record_file.write_text(json.dumps(record))
    assert inits.key(init, 0) == f"sha256:{state_sha256(state)}"
    run.student.write_bytes(weight_bytes({**state, "fc.bias": state["fc.bias"] + 1}, FACTS))
    with pytest.raises(WeightsError, match="cannot start from .*not those of its record: `cakdbench fsck --repair`"):
        Inits(inits.store).student("resnet_s", 3, init, 0)


@pytest.mark.parametrize(("init", "head"), [("imagenet", "keep"), ("file:", "keep"), ("hub", "new")])
def test_other_inits_are_refused(init, head):
    with pytest.raises(UsageError, match="init"):
        recipe(init, head)


def test_a_recipes_file_is_taken_from_its_folder(tmp_path):
    (tmp_path / "r.toml").write_text('extends = "demo"\ntitle = "r"\nsource = "test"\ninit = "file:w.pth"\n')
    assert load_recipe(str(tmp_path / "r.toml")).init == f"file:{tmp_path / 'w.pth'}"

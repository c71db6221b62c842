"""Checkpoints as trainers save them are read, and nothing of them is executed."""

import argparse
import collections
import datetime
import enum
import functools
import pathlib
import re
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.models import clean_state_dict
from torch import nn

from cakdbench.models.checkpoints import read_checkpoint
from cakdbench.models.staged import StagedModel
from cakdbench.models.weights import load_weights, weights_sha256
from cakdbench.utils.errors import WeightsError


class Node(dict):
    """Settings as yacs, OmegaConf and Lightning have them."""


class Colour(enum.Enum):
    RED = 1


class Runs:
    """Runs when it is unpickled."""

    ran: list[int] = []

    def __reduce__(self):
        return self.ran.append, (1,)


class RunsBuiltIn:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(0)
    return StagedModel("resnet_s", 3, 64)


@pytest.fixture(scope="module")
def state(source):
    return source.export_state()


def under(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def beside():
    """What trainers save beside the weights."""
    net = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return {
        "args": argparse.Namespace(lr=0.1, data=pathlib.Path("/data")), "path": pathlib.PureWindowsPath("C:/x"),
        "metric": np.float64(50.0), "array": np.arange(3), "dtype": np.dtype("int16"), "set": {1}, "epoch": 3,
        "config": Node(model=Node(name="x")), "colour": Colour.RED, "time": datetime.datetime(2024, 1, 1),
        "hook": functools.partial(print, 1), "hook2": RunsBuiltIn(), "log": collections.defaultdict(list, {"a": [1]}),
        "last": collections.deque([1, 2]), "optimizer": optimizer.state_dict(), "model_ema": None,
    }  # fmt: skip


FORMS = {
    "": lambda s: s,
    "state_dict": lambda s: {"state_dict": s},
    "net": lambda s: {"net": under("module._orig_mod.", s)},
    "model_state_dict": lambda s: {"model_state_dict": under("_orig_mod.module.", s)},
    "state_dict.model": lambda s: {"state_dict": {"model": under("module.model.", s)}},
    "resnet": lambda s: {"resnet": collections.defaultdict(list, s)},
    "state_dict ": lambda s: {"state_dict": under("model.", s) | {"criterion.weight": torch.ones(2)}},
    "state_dict_ema": lambda s: {"state_dict": {k: v + 1 for k, v in s.items()}, "state_dict_ema": s},
    "ema_state_dict": lambda s: {"model": {k: v + 1 for k, v in s.items()}, "ema_state_dict": s},
    "ema.shadow": lambda s: {"model": {k: v + 1 for k, v in s.items()}, "ema": {"decay": 0.9, "shadow": s}},
    "model": lambda s: {"model": under("module.", s), "ema": {"decay": 0.9, "shadow_params": [1]}},
    "model_ema": lambda s: {"model": under("x.", s), "model_ema": under("module.", s) | {"n_averaged": torch.ones(())}},
}


@pytest.mark.parametrize("taken", FORMS)
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_what_trainers_save_loads_whole(tmp_path, source, state, taken, new):
    content = FORMS[taken](state)
    if taken:
        content = beside() | content
    torch.save(content, tmp_path / "c.pth", _use_new_zipfile_serialization=new)
    checkpoint, model = read_checkpoint(tmp_path / "c.pth"), StagedModel("resnet_s", 3, 64)
    load_weights(model, checkpoint.state)
    assert weights_sha256(model) == weights_sha256(source)
    assert checkpoint.taken == taken.strip() and checkpoint.averaged == ("ema" in taken)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
        lambda s: {k: v.numpy() for k, v in s.items()},
        lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
        lambda s: collections.OrderedDict((k, nn.Parameter(v, requires_grad=False)) for k, v in s.items()),
        lambda s: clean_state_dict(under("module.", s)),
        lambda s: under("backbone.", s) | {"projector.weight": torch.ones(2, 2)},
        lambda s: under("module.encoder_q.", s) | {"queue": torch.ones(2, 2)},
    ],
)
def test_states_of_other_forms_load_to_the_same_weights(tmp_path, source, state, change):
    torch.save(change(state), tmp_path / "c.pth")
    model = StagedModel("resnet_s", 3, 64)
    load_weights(model, read_checkpoint(tmp_path / "c.pth").state)
    assert weights_sha256(model) == weights_sha256(source)


def test_half_precision_loads_as_its_nearest_float32(tmp_path, state):
    save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, tmp_path / "c.safetensors")
    model = StagedModel("resnet_s", 3, 64)
    load_weights(model, read_checkpoint(tmp_path / "c.safetensors").state)
    assert all(torch.equal(model.export_state()[k], v.half().to(v.dtype)) for k, v in state.items())


def test_quantised_weights_are_refused(state):
    wrong = {k: v.to(torch.int8) if k == "fc.weight" else v for k, v in state.items()}
    with pytest.raises(WeightsError, match="1 of another type .fc.weight torch.int8"):
        load_weights(StagedModel("resnet_s", 3, 64), wrong)


def archive(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "x")


def cut(path, content=None):
    save = save_file if path.suffix == ".safetensors" else torch.save
    save(content or {"a": torch.ones(99)}, path)
    path.write_bytes(path.read_bytes()[:200])


WRONG = {
    "list.pth": (lambda path: torch.save([1, 2], path), "holds a list"),
    "tensor.pth": (lambda path: torch.save(torch.ones(2), path), "holds a Tensor"),
    "numbers.pth": (lambda path: torch.save({0: torch.ones(2)}, path), "no state dict .its keys are 0"),
    "nothing.pth": (lambda path: torch.save({}, path), "holds nothing"),
    "two.pth": (lambda path: torch.save({x: {"w": torch.ones(2)} for x in "gd"}, path), r"several networks \(g, d\)"),
    "whole.pth": (lambda path: torch.save(nn.Linear(2, 2), path), "holds a whole network"),
    "inside.pth": (lambda path: torch.save({"model": nn.Linear(2, 2), "epoch": 1}, path), "holds a whole network"),
    "empty.pth": (lambda path: path.write_bytes(b""), "is empty"),
    "empty.safetensors": (lambda path: path.write_bytes(b""), "is empty"),
    "page.pth": (lambda path: path.write_text("<!DOCTYPE html>\n<html>"), "is text that begins '<!DOCTYPE html>'"),
    "lfs.safetensors": (lambda path: path.write_text("version https://git-lfs\noid 1"), "is text that begins 'version"),
    "noise.pth": (lambda path: path.write_bytes(bytes(range(128, 256)) * 9), "is damaged"),
    "noise.safetensors": (lambda path: path.write_bytes(bytes(range(128, 256)) * 9), "is damaged"),
    "cut.pth": (cut, "is damaged"),
    "cut.safetensors": (cut, "is damaged"),
    "other.zip": (archive, "archive that torch.save did not write"),
    "folder.pth": (lambda path: path.mkdir(), "cannot be read"),
    "gone.pth": (lambda path: None, "cannot be read .No such file"),
    "code.pth": (lambda path: torch.save({"state_dict": {"w": torch.ones(2)}, "x": Runs()}, path), "is damaged|"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_checkpoint_is_named_in_one_line(tmp_path, name):
    make, words = WRONG[name]
    make(tmp_path / name)
    with pytest.raises(WeightsError, match=words) as error:
        read_checkpoint(tmp_path / name)
    told = str(error.value)
    assert told.startswith(str(tmp_path / name)) and "\n" not in told and not re.search("weights_only", told)


def test_nothing_of_a_file_runs(tmp_path, state):
    torch.save({"state_dict": state, "x": RunsBuiltIn()}, tmp_path / "c.pth")
    assert read_checkpoint(tmp_path / "c.pth").state.keys() == state.keys()

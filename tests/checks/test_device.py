"""Methods, lanes and trainer on a device that is not the CPU, and whether what breaks its rules is found."""

import importlib
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import cakdbench.method
import cakdbench.methods.kd
import cakdbench.train.lane
import cakdbench.train.normstats
import cakdbench.train.trainer
from cakdbench.checks.device import HOST, OnDevice, full_recipe, on_device, steps_on_device, train_on_device
from cakdbench.checks.gpu_rules import DEVICE, GpuRules
from cakdbench.checks.lab import Direction, Fault, Lab, make_trainer, short_recipe
from cakdbench.methods.kd import KD
from cakdbench.registry import get_method, method_ids
from cakdbench.train.lane import Lane
from tests.checks.planted import FAULTS, planted_into

TO_CNN, TO_TOKENS = Direction("msa", "cnn"), Direction("cnn", "msa")
SOME = [TO_CNN, TO_TOKENS]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def said(faults):
    return [str(fault) for fault in faults]


@pytest.mark.parametrize("id", method_ids())
def test_no_method_on_any_direction_and_no_variant_breaks_a_rule(id):
    """The directions that the check leaves out, which `test_every_method` runs; and every variant on one, by turns."""
    lab = Lab(get_method(id))
    cases = [(lab, direction) for direction in lab.accepted if direction not in lab.some]
    for number, name in enumerate(lab.method.variants):
        variant = replace(lab, variant=name)
        accepted = [direction for direction in SOME if variant.refusal(direction) is None]
        assert accepted or (id, name) == ("fbt", "heads_6")
        cases += [(variant, direction) for direction in accepted[number % 2 :][:1] or accepted[:1]]
    found = {f"{lab.label}, {direction}": said(steps_on_device(lab, direction)) for lab, direction in cases}
    assert {where: faults for where, faults in found.items() if faults} == {}


OTHERS = [pytest.param(id, marks=pytest.mark.slow) for id in method_ids() if id not in ("crd", "fbt", "fitnet", "kd")]


@pytest.mark.parametrize("id", ["crd", "fbt", "fitnet", "kd", *OTHERS])
def test_a_fault_in_any_function_of_a_method_that_runs_in_a_step_is_found_with_its_line(id):
    method = get_method(id)
    lab = Lab(method)
    modules = [module for name, module in sys.modules.items() if name.startswith(method.__module__)]
    with planted_into(*modules) as planted:
        faults = steps_on_device(lab, lab.some[0])
    check_found(planted, faults)


def check_found(planted, faults):
    assert planted.ran
    for words in FAULTS:
        assert {(fault.file, fault.line) for fault in faults if words in fault.what} == planted.ran


ENGINE = ["method", "train.lane", "train.normstats", "train.trainer"]


@pytest.mark.parametrize("name", ENGINE)
def test_a_fault_in_any_function_of_the_engine_that_runs_in_a_step_is_found(name):
    module = importlib.import_module(f"cakdbench.{name}")
    with planted_into(module) as planted:
        faults = train_on_device(Lab(KD), TO_CNN)
    check_found(planted, faults)
    lines = {line for _, line in planted.ran}
    assert len(lines) >= {"method": 3, "train.lane": 6, "train.normstats": 4, "train.trainer": 12}[name]


def test_losses_are_read_by_one_wait_however_many_steps_there_were():
    with GpuRules([Lab.lane]):
        lane = Lab(KD).lane(TO_CNN, full_recipe(), OnDevice())
    trainer, rules = make_trainer([lane], TO_CNN), GpuRules([Lane.flush_metrics])
    (batches,) = trainer.stream.epoch(0)
    with GpuRules():
        batches = [trainer._batch(samples) for samples in batches]
    lane.start_epoch(0)
    with rules:
        for _ in range(3):
            for number, batch in enumerate(batches):
                lane.local_step(batch, number)
        assert rules.reads == 0
        lane.flush_metrics()
    assert (rules.reads, rules.faults) == (1, [])
    assert lane.running.steps == 6 and lane.running.losses == {"label": 0.0, "kd": 0.0}


def test_outside_of_the_places_where_it_may_a_lane_that_reads_its_losses_is_found():
    lane = Lab(KD).lane(TO_CNN, short_recipe(), OnDevice())
    trainer, rules = make_trainer([lane], TO_CNN), GpuRules([host for host in HOST if host is not Lane.flush_metrics])
    with rules:
        trainer.run()
    assert [fault.what for fault in rules.faults] == ["copies a tensor of the device to the CPU, and waits for it"]
    assert rules.faults[0].file == cakdbench.train.lane.__file__ and "tolist()" in str(rules.faults[0])


WAIT, MEET, MADE = "waits", "meets", "makes a tensor on the CPU"
LONG = torch.arange(3)

BREAKS = {
    "copied": (lambda x: x.cpu(), WAIT),
    "moved": (lambda x: x.to("cpu", non_blocking=True), WAIT),
    "of another type": (lambda x: x.type(torch.FloatTensor), WAIT),
    "one number": (lambda x: x[0].item(), WAIT),
    "as float": (lambda x: float(x.sum()), WAIT),
    "as bool": (lambda x: bool(x.sum() > 0), WAIT),
    "compared": (lambda x: max(x[0], x[1]), WAIT),
    "contained": (lambda x: 1.0 in x, WAIT),
    "all equal": (lambda x: torch.equal(x, x), WAIT),
    "close": (lambda x: torch.allclose(x, x), WAIT),
    "a list": (lambda x: x.tolist(), WAIT),
    "a list of one number": (lambda x: x[0].tolist(), WAIT),
    "numpy": (lambda x: x.numpy(), WAIT),
    "an array": (lambda x: np.asarray(x), WAIT),
    "a round trip": (lambda x: torch.from_numpy(x.cpu().numpy()).to(x.device), WAIT),
    "printed": (lambda x: f"{x.sum():.3f}", WAIT),
    "written": (lambda x: f"{x.sum()}", WAIT),
    "shown": (repr, WAIT),
    "masked": (lambda x: x[x > 0], WAIT),
    "set by mask": (lambda x: x.__setitem__(x > 0, x[:1].sum()), WAIT),
    "selected": (lambda x: x.masked_select(x > 0), WAIT),
    "places": (lambda x: x.nonzero(), WAIT),
    "places by where": (lambda x: torch.where(x > 0), WAIT),
    "different": (lambda x: x.unique(), WAIT),
    "counted": (lambda x: x.long().bincount(), WAIT),
    "one-hot of unknown width": (lambda x: nn.functional.one_hot(x.long()), WAIT),
    "repeated": (lambda x: x.repeat_interleave(x.long()), WAIT),
    "inverted": (lambda x: torch.linalg.inv(x.outer(x)), WAIT),
    "sent": (lambda x: LONG.to(x.device), WAIT),
    "written into": (lambda x: x.copy_(LONG), WAIT),
    "numbers sent": (lambda x: torch.tensor([1.0, 2.0, 3.0], device=x.device), WAIT),
    "one number sent": (lambda x: x.new_tensor(1.0), WAIT),
    "met": (lambda x: x + LONG, MEET),
    "met first": (lambda x: LONG * x, MEET),
    "met in place": (lambda x: torch.ones(3).add_(x), MEET),
    "stacked": (lambda x: torch.stack([x, LONG]), MEET),
    "multiplied": (lambda x: x @ LONG.float(), MEET),
    "indexed by": (lambda x: x[LONG], MEET),
    "gathered by": (lambda x: x.gather(0, LONG), MEET),
    "looked up": (lambda x: LONG[x.long()], MEET),
    "a layer left behind": (lambda x: nn.functional.linear(x, torch.ones(2, 3)), MEET),
    "a number that is met": (lambda x: torch.stack([x[0], torch.tensor(1.0)]), MEET),
    "zeros": (lambda x: torch.zeros(3), MADE),
    "no shape": (lambda x: x.sum() + torch.zeros(()), MADE),
    "a number": (lambda x: x * torch.tensor(1.0), MADE),
    "a list's tensor": (lambda x: torch.tensor([1.0, 2.0]), MADE),
    "an array's tensor": (lambda x: torch.from_numpy(np.zeros(3)), MADE),
    "a range": (lambda x: torch.arange(3), MADE),
    "an identity": (lambda x: torch.eye(3), MADE),
}


@pytest.mark.parametrize("act, words", BREAKS.values(), ids=BREAKS)
def test_what_a_gpu_refuses_or_waits_for_is_found(act, words):
    x = torch.ones(3, device=DEVICE)
    with GpuRules() as rules:
        act(x)
    assert any(words in fault.what for fault in rules.faults)
    assert all(fault.file == __file__ or fault.file == "?" for fault in rules.faults)
    assert all(len(fault.hint.split()) > 3 for fault in rules.faults)


KEEPS = {
    "shapes": lambda x: [len(x), x.shape[0], x.ndim, x.numel()],
    "made there": lambda x: x + torch.zeros(3, device=x.device) + torch.arange(3, device=x.device),
    "made alike": lambda x: x + torch.zeros_like(x) + x.new_ones(3),
    "numbers of Python": lambda x: (2 * x + 1.0).clamp(0, 1).masked_fill(x > 0, 0.0),
    "chosen": lambda x: torch.where(x > 0, x, 0.0),
    "filled by mask": lambda x: x.__setitem__(x > 0, 0.0),
    "indexed": lambda x: x[torch.zeros(2, dtype=torch.long, device=x.device)],
    "one-hot": lambda x: nn.functional.one_hot(x.long(), 4),
    "sorted": lambda x: (x.sort(), x.topk(2), x.argmax(), x.argsort()),
    "sent without a wait": lambda x: x + LONG.to(x.device, non_blocking=True),
    "drawn there": lambda x: torch.rand(3, device=x.device) + torch.randn_like(x) + nn.functional.dropout(x),
    "drawn on the CPU": lambda x: torch.randperm(3)[:2].tolist(),
    "inverted": lambda x: torch.linalg.inv_ex(x.outer(x)),
    "repeated": lambda x: x.repeat_interleave(2),
    "in losses": lambda x: nn.functional.cross_entropy(x[None], torch.zeros(1, dtype=torch.long, device=x.device)),
}


@pytest.mark.parametrize("act", KEEPS.values(), ids=KEEPS)
def test_what_a_gpu_does_without_a_wait_is_no_fault(act):
    with GpuRules() as rules:
        act(torch.ones(3, device=DEVICE))
    assert said(rules.faults) == []


class Twice(torch.autograd.Function):
    """Looks at the gradient on its way back."""

    @staticmethod
    def forward(context, x):
        return 2 * x

    @staticmethod
    def backward(context, grad):
        return 2 * grad if grad.any() else grad


def test_backward_passes_are_looked_at_too():
    x = torch.ones(3, device=DEVICE, requires_grad=True)
    with GpuRules() as rules:
        loss = Twice.apply(x).sum()
        assert rules.faults == []
        loss.backward()
    assert "2 * grad if grad.any() else grad" in str(rules.faults[0])


def test_torch_is_as_before_afterwards():
    before = torch.autocast, torch.Generator
    with pytest.raises(ZeroDivisionError), GpuRules():
        assert torch.Generator(DEVICE).manual_seed(0)
        raise ZeroDivisionError
    assert (torch.autocast, torch.Generator) == before
    assert torch.zeros(2).tolist() == [0, 0] and repr(torch.zeros(1)) == "tensor([0.])"


class Leaves(KD):
    """Keeps a tensor that moves with no module."""

    def build(self):
        self.scale = torch.ones(10)

    def distill_step(self, batch):
        step = super().distill_step(batch)
        return replace(step, losses=step.losses | {"scaled": (step.logits * self.scale).mean()})


class BuildsOfBoth(KD):
    """Starts from the teacher's weights, which are on the device where the student is not yet."""

    def build(self):
        weights = [next(model.parameters()).detach().flatten()[:8] for model in (self.student, self.teacher)]
        self.register_buffer("start", sum(weights))


class LeavesInAVariant(KD):
    """Makes its weights on the CPU, in a variant."""

    variants = {"t4": {"temperature": 4.0}}

    def distill_step(self, batch):
        if self.config.temperature == 4:
            torch.linspace(0, 1, 10)
        return super().distill_step(batch)


class Resumes(KD):
    """Has its memory on the CPU after a resume."""

    memory = None

    def distill_step(self, batch):
        step = super().distill_step(batch)
        if self.memory is not None:
            step.losses["memory"] = (step.logits.mean(0) - self.memory).square().mean()
        self.memory = step.logits.detach().mean(0)
        return step

    def get_extra_state(self):
        return {"memory": self.memory}

    def set_extra_state(self, state):
        self.memory = state["memory"]


class Swallows(KD):
    """Goes on after an error."""

    def distill_step(self, batch):
        try:
            batch.images.numpy()
        except TypeError:
            pass
        return super().distill_step(batch)


@pytest.mark.parametrize(
    "method, words",
    [
        (Leaves, "a tensor (10,) of the CPU meets one (10, 10) of the device in mul (test_device.py, line"),
        (BuildsOfBoth, "a tensor (8,) of the CPU meets one (8,) of the device in add (test_device.py, line"),
        (LeavesInAVariant, "kd:t4, cnn > cnn: makes a tensor on the CPU (test_device.py, line"),
        (Resumes, "of the CPU meets one (10,) of the device in sub (test_device.py, line"),
        (Swallows, "copies a tensor of the device to the CPU, and waits for it (test_device.py, line"),
    ],
)
def test_the_check_names_the_line(method, words):
    with pytest.raises(Fault) as found:
        on_device(Lab(method))
    assert words in str(found.value)
    assert len(found.value.hint.split()) > 3


class Raises(KD):
    """Fails on every device but the CPU."""

    def distill_step(self, batch):
        if batch.images.device.type != "cpu":
            raise RuntimeError("no kernel for this device")
        return super().distill_step(batch)


def test_a_lane_that_fails_there_is_a_fault_with_its_reason():
    with pytest.raises(Fault, match="no kernel for this device"):
        on_device(Lab(Raises))

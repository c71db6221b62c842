"""A method that fails fails by itself: one line with file, line and message, its frames on disk, the others go on."""

import json

import pytest

from cakdbench.store import Store

BASE = """
import torch
from cakdbench.method import Method, Step
from cakdbench.registry import register

def deep(what):
    raise ValueError(f"no {what}\\nat all")

class Base(Method):
    needs = frozenset({"logits"})

    def distill_step(self, batch):
        logits = self.student(batch.images).logits
        return self.gives(batch, logits, {"label": batch.label_loss(logits)})

    def gives(self, batch, logits, losses):
        return Step(logits, losses)
"""
STEP = "def gives(self, batch, logits, losses): "
METHODS = {
    "in_build": (
        "def build(self): deep('layer')",
        "while building: ValueError: no layer at all (bad.py, line 7, in deep)",
    ),
    "in_step": (f"{STEP}deep('step')", "at step 0: ValueError: no step at all (bad.py, line 7, in deep)"),
    "at_step_3": (
        f"{STEP}return deep('more') if batch.step == 3 else Step(logits, losses)",
        "at step 3: ValueError: no more at all (bad.py, line 7, in deep)",
    ),
    "in_save": ("def before_save(self): deep('saving')", "at step 4: ValueError: no saving at all (bad.py, line 7"),
    "in_optimizers": ("def extra_optimizers(self): deep('opt')", "while building: ValueError: no opt at all (bad.py"),
    "nan": (f"{STEP}return Step(logits, {{'x': logits.sum() * float('nan')}})", "loss 'x' is nan at step 0"),
    "nothing": (f"{STEP}pass", "at step 0: distill_step gave NoneType; return Step("),
    "no_loss": (f"{STEP}return Step(logits, {{}})", "at step 0: distill_step gave no loss; return Step("),
    "a_vector": (f"{STEP}return Step(logits, {{'x': logits.sum(1)}})", "at step 0: loss 'x' is no scalar; reduce it"),
    "wrong": (f"{STEP}return Step(logits[:, :5], losses)", "at step 0: the logits are (20, 5), not (20, 10)"),
    "detached": (
        f"{STEP}return Step(logits, {{'x': losses['label'].detach()}})",
        "at step 0: RuntimeError: element 0 of",
    ),
    "leaves": (f"{STEP}raise SystemExit(3)", "at step 0: SystemExit: 3 (bad.py, line"),
    "leaves_early": ("def build(self): raise SystemExit", "while building: SystemExit: it says nothing (bad.py, line"),
    "silent": ("def build(self): raise KeyError()", "while building: KeyError: it says nothing (bad.py, line"),
}


@pytest.fixture
def bad(shell):
    """A method file in which every method fails in a way of its own."""
    classes = [
        f'@register("{id}", title="", paper="", url="")\nclass M{number}(Base):\n    {body}\n'
        for number, (id, (body, _)) in enumerate(METHODS.items())
    ]
    path = shell.work / "bad.py"
    path.write_text(BASE + "\n" + "\n".join(classes))
    return path


def test_every_failing_method_fails_by_itself_and_the_others_finish(shell, bad):
    shell.sure = False  # with an estimate first
    code, output = shell.run("--methods", ",".join(METHODS), "--method-file", str(bad))
    assert code == 1 and "Traceback" not in output, output
    runs = {run.label(): run for run in Store(shell.store).runs()}
    assert {label for label, run in runs.items() if run.state() == "done"} == {"scratch", "kd"}
    for id, (_, reason) in METHODS.items():
        assert runs[id].failure().startswith(reason), runs[id].failure()
        (line,) = [line for line in output.splitlines() if line.startswith(f"failed: {runs[id].key}: ")]
        assert reason in line
    frames = (runs["in_build"].path / "error.txt").read_text()
    assert "ValueError: no layer\nat all" in frames and "raise ValueError(f" in frames and 'bad.py", line 7' in frames
    assert not (runs["nan"].path / "error.txt").exists()  # its place says nothing


def test_a_dry_run_names_what_fails_and_estimates_the_rest(shell, bad):
    code, output = shell.run("--methods", "in_build,in_step,at_step_3", "--method-file", str(bad), "--dry-run")
    assert code == 0 and "Traceback" not in output, output
    pair = "resnet_m>vit_xs@timm:folder/tiny"
    assert f"a step fails: in_build on {pair}: ValueError: no layer at all (bad.py, line 7, in deep)" in output
    assert f"a step fails: in_step on {pair}" in output and "at_step_3 on" not in output
    assert "estimate: about" in output


def test_what_failed_is_tried_again_and_its_frames_go(shell, bad):
    arguments = ("--methods", "in_build", "--method-file", str(bad))
    assert shell.run(*arguments)[0] == 1
    bad.write_text(bad.read_text().replace("def build(self): deep('layer')", "pass"))
    code, output = shell.run(*arguments)
    assert code == 0, output
    assert len([run for run in Store(shell.store).runs() if run.label() == "in_build"]) == 2  # other code, another run


def test_costs_of_a_failing_method_are_a_line_and_the_others_are_counted(shell, bad):
    pair = "resnet_m>vit_xs@fashion_demo"
    code, output = shell(
        "cost", "--methods", "kd,in_build", "--pairs", pair, "--method-file", str(bad), "--format", "json"
    )
    rows = {row["method"]: row for row in json.loads(output[output.index("[") :])}
    assert code == 0 and rows["kd"]["refusal"] is None
    assert "ValueError: no layer at all (bad.py, line 7, in deep)" in rows["in_build"]["refusal"]
    code, output = shell("list", "methods", "--pair", pair, "--method-file", str(bad))
    assert code == 0 and "Traceback" not in output and "fails" in output

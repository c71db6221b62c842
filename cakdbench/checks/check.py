"""All checks of a method, one finding each."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table
from rich.text import Text

from cakdbench.checks import device, steps, training
from cakdbench.checks.lab import Fault, Lab
from cakdbench.utils.errors import RAISED, file_of, frame_of

FIRST = ("described", "refusals have reasons")
"""Where one fails no other check is made."""
STEP = "finite in fp32"
"""The first check that makes a step: where a method raises an error there, the others would say the same."""
CHECKS: dict[str, Callable[[Lab], str]] = {
    "described": steps.described,
    "refusals have reasons": steps.refusals,
    STEP: steps.finite(autocast=False),
    "finite under bf16": steps.finite(autocast=True),
    "trains the student, not the teacher": steps.trains_the_student_alone,
    "needs what it declares": steps.needs,
    "an adversary keeps to itself": steps.adversary,
    "every form of labels": steps.label_forms,
    "odd batch sizes": steps.batch_sizes,
    "every variant steps": steps.variants,
    "leaves seeds alone": steps.keeps_seeds,
    "exported student is plain": steps.export,
    "extra parameters move": training.optimized,
    "state survives a checkpoint": training.checkpoint,
    "alone as beside others": training.beside_others,
    "device": device.on_device,
}


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        detail: what was looked at, or what is wrong.
        hint: what to do about it; empty if nothing is wrong.
    """

    title: str
    passed: bool
    detail: str
    hint: str = ""
    seconds: float = 0.0


def check_method(lab: Lab, files: list[Path] = [], processes: bool = True) -> Iterator[Finding]:
    """Check a method's contract, point by point, on the CPU.

    Args:
        files: method files that a second process has to load too.
        processes: whether to train with two processes as well, which takes some seconds more.
    """
    checks = CHECKS | ({"two processes as one": lambda lab: training.two_processes(lab, files)} if processes else {})
    lab = replace(lab)  # what the checks of one round share ends with it
    for title, check in checks.items():
        begun = time.monotonic()
        passed, detail, hint, raised = _run(check, lab)
        yield Finding(title, passed, detail, hint, time.monotonic() - begun)
        if not passed and (title in FIRST or raised and title == STEP):
            return


def _run(check: Callable[[Lab], str], lab: Lab) -> tuple[bool, str, str, bool]:
    """Return whether a check is passed, what it found, what to do, and whether the method raised an error."""
    try:
        return True, check(lab), "", False
    except Fault as fault:
        return False, fault.what, fault.hint, False
    except RAISED as error:  # a method may raise anything
        frame = frame_of(error, file_of(lab.method))
        place = f"{Path(frame.filename).name}, line {frame.lineno}: {frame.line}" if frame else "its file"
        return False, f"{type(error).__name__}: {error}", f"look at {place}", True


def findings_table(name: str, findings: list[Finding]) -> Table:
    """Return a table of a line per check, and what to do below each that failed."""
    table = Table("check", "", "found", "s", title=Text(name), title_justify="left")
    for finding in findings:
        mark = Text("ok", "green") if finding.passed else Text("FAILED", "bold red")
        detail = Text(finding.detail if finding.passed else f"{finding.detail}\n-> {finding.hint}")
        table.add_row(finding.title, mark, detail, f"{finding.seconds:.1f}")
    return table

"""Run the tests of tests/cuda and the measurements of speed on this machine's GPU, and write one dated page.

    pip install -e ".[test,energy]"
    python scripts/gpu_report.py                              # docs/measurements/DATE-device.md, .json and .svg
    python scripts/gpu_report.py --device cpu --tiny          # tries the script itself, without a GPU

Every section has a box of time and stands by itself: one that fails is reported with its reason. The most important
come first; what no time is left for is named. The page is written anew after every section.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from cakdbench.data.datasets import dataset_facts
from cakdbench.data.stream import SampleStream
from cakdbench.data.synthetic import synthetic_dataset
from cakdbench.engine.speed.bench import SpeedBench
from cakdbench.engine.speed.timing import Limit, stream_rate
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.grid.suites import resolve_pairs
from cakdbench.recipes import load_recipe
from cakdbench.reports.page_speed import draw_speed, speed_page
from cakdbench.train.runtime import Options, Runtime
from cakdbench.utils.device import device_name, make_accelerator, usable_cores

ROOT = Path(__file__).parents[1]
TIER_1 = "scratch,kd,dkd,dist,fitnet,cc,rkd,crd,ofa,fofa,pcagl,fbt"
BATCH = "recipe.global_batch=128"
SWIN, CONVNEXT, MIXER = "swin_t>resnet18@cifar100", "convnext_t>deit_t@cifar100", "mixer_b16>mobilenetv2@cifar100"


class OutOfTime(BaseException):
    """Ends a section; no Exception, so that nothing takes it for a lane's failure."""


@dataclass(frozen=True)
class Measurement:
    """A group to measure, and in which way."""

    name: str
    pair: str
    methods: str = TIER_1
    precision: str = "bf16"
    options: dict[str, Any] = field(default_factory=dict)
    settings: tuple[str, ...] = (BATCH,)
    flags: dict[str, bool] = field(default_factory=dict)
    box: int = 100


MEASUREMENTS = (
    Measurement("Swin-T to ResNet18, all lanes", SWIN, box=75),
    Measurement("ConvNeXt-T to DeiT-T, all lanes", CONVNEXT, box=70),
    Measurement("Swin-T to ResNet18, one lane", SWIN, "kd", box=40),
    Measurement("ConvNeXt-T to DeiT-T, one lane", CONVNEXT, "kd", box=40),
    Measurement("channels last", SWIN, "kd", options={"channels_last": True}, box=30),
    Measurement("cudnn.benchmark", SWIN, "kd", flags={"cudnn.benchmark": True}, box=30),
    Measurement("fp32, convolutions in TF32 as torch has it", SWIN, "kd", "fp32", box=30),
    Measurement("compiled", CONVNEXT, "kd", options={"compile": True}, box=70),
    Measurement("Mixer-B/16 to MobileNetV2, all lanes", MIXER, box=75),
    Measurement("ImageNet's JPEGs", "swin_t>resnet18@imagenet1k", "kd", box=40),
)
TINY = (
    Measurement("tiny, two lanes", "resnet_m>vit_xs@fashion_demo", "kd,dkd", "fp32", settings=(), box=60),
    Measurement("tiny, compiled", "resnet_m>mobilenet_s@fashion_demo", "scratch", "fp32", {"channels_last": True}, ()),
    Measurement("tiny, noise", "resnet_m>mobilenet_s@cifar100", "fbt", "bf16",
                settings=("recipe.image_size=64", "recipe.global_batch=16", "recipe.local_batch=16")),
    Measurement("tiny, an error", "resnet_m>nothing@cifar100"),
)  # fmt: skip


@dataclass
class Section:
    """What became of a part of the report; `error` says why there is nothing, or not all."""

    name: str
    seconds: float = 0.0
    text: str = ""
    error: str = ""
    group: dict[str, Any] | None = None


class Report:
    """Runs sections within a budget of seconds and writes the page."""

    def __init__(self, out: Path, budget: float, device: torch.device, tiny: bool):
        self.out, self.budget, self.device, self.tiny = out, budget, device, tiny
        self.started = time.monotonic()
        self.sections: list[Section] = []
        self.name = f"{datetime.now(UTC):%Y-%m-%d}-{_slug(device_name(device))}"

    @property
    def left(self) -> float:
        return self.budget - (time.monotonic() - self.started)

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.started:6.1f} s] {text}", flush=True)

    def section(self, name: str, box: float, act: Callable[[Section, float], None]) -> None:
        """Run one section within its box of seconds."""
        section, box = Section(name), min(box, self.left)
        self.sections.append(section)
        if box < 5:
            section.error = "no time was left for it"
            return
        self.say(f"{name} (at most {box:.0f} s)")
        started = time.monotonic()
        try:
            with _alarm(box):
                act(section, box)
        except (Exception, OutOfTime) as error:
            section.error = f"{type(error).__name__}: {error}"
            self.say(traceback.format_exc())
        section.seconds = time.monotonic() - started
        self.say(f"{name}: {section.seconds:.1f} s {section.error}")
        self.write()

    def write(self) -> None:
        """Write what there is so far; a page that cannot be drawn still leaves its numbers."""
        self.out.mkdir(parents=True, exist_ok=True)
        groups = [section.group for section in self.sections if section.group]
        content = {"machine": machine(self.device), "sections": [vars(section) for section in self.sections]}
        (self.out / f"{self.name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        try:
            (self.out / f"{self.name}.md").write_text(self.page(groups), encoding="utf-8")
            draw_speed(groups, self.out / f"{self.name}.svg")
        except Exception:
            self.say(traceback.format_exc())

    def page(self, groups: list[dict[str, Any]]) -> str:
        facts = machine(self.device)
        lines = [f"# {facts['device']}, {datetime.now(UTC):%Y-%m-%d}", ""]
        lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items()]
        lines += [f"- command: `{shlex.join(['python', *map(_relative, sys.argv)])}`", "", "## Sections", ""]
        lines += [f"- {s.name}: {s.error or 'done'} ({s.seconds:.0f} s)" for s in self.sections]
        lines += ["", *(f"{s.text}\n" for s in self.sections if s.text)]
        named = [section for section in self.sections if section.group]
        lines += ["## Speed", "", *(f"{n}. {section.name}" for n, section in enumerate(named, 1)), ""]
        return (
            "\n".join(lines)
            + "\n"
            + (speed_page(groups) + f"\n![Parts of a step]({self.name}.svg)\n" if groups else "")
        )


def tests(report: Report, choice: str) -> Callable[[Section, float], None]:
    """Return a section that runs the tests of tests/cuda that the choice (of `pytest -k`) names."""

    def act(section: Section, box: float) -> None:
        log = report.out / f"{_slug(section.name)}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pytest", "tests/cuda", "-o", "addopts=--import-mode=importlib", "-v", "-rfE"]
        command += ["--tb=short", "--durations=8", "-p", "no:cacheprovider", "-k", choice]
        environment = os.environ | {"CAKDBENCH_TEST_DEVICE": report.device.type, "PYTHONUNBUFFERED": "1"}
        with log.open("w") as file:
            process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment)
            code = _end(process, box - 12)
        section.text = f"## {section.name.capitalize()}\n\n" + _summary(log.read_text(errors="replace"))
        if code:
            section.error = "out of time" if code < 0 else f"pytest ended with {code}"
        report.say(section.text)

    return act


def _end(process: subprocess.Popen, seconds: float) -> int:
    """Return a process's exit code; -1 if it had to be interrupted, after which pytest still says what it knows."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(8)
    except subprocess.TimeoutExpired:
        process.kill()
    return -1


def _summary(text: str) -> str:
    """Return the failures that pytest names, and its last line."""
    lines = text.splitlines()
    named = [f"- {line}" for line in lines if line.startswith(("FAILED", "ERROR"))]
    counts = f"{text.count(' PASSED')} passed, {text.count(' FAILED')} failed, without an end"
    last = next((line for line in reversed(lines) if re.search(r"\d+ (passed|failed|error).* in ", line)), counts)
    return "\n".join([last.strip("= "), *named])


def measure(report: Report, case: Measurement) -> Callable[[Section, float], None]:
    """Return a section that measures a group."""

    def act(section: Section, box: float) -> None:
        accelerator = make_accelerator(case.precision, cpu=report.device.type == "cpu")
        chosen, settings = case.methods.split(","), Settings.parse(case.settings)
        plan = make_plan(chosen, resolve_pairs(case.pair), (0,), settings, case.precision)
        cells = [cell for cell in plan.cells if cell.label in chosen]
        limit = Limit(8, 2) if report.tiny else Limit(48, 2) if len(cells) > 1 else Limit(160, 5)
        with _flags(case.flags):
            bench = SpeedBench(cells, Runtime(accelerator, Options(**case.options)), limit)
            try:
                bench.measure()
            finally:  # a group that ran out of time leaves what it has
                speed = bench.speed
                section.group = speed.to_json()
                bench.close()
        report.say(
            f"trainer {speed.trainer:,.0f} images/s, ceiling {speed.ceiling:,.0f}, ratio {speed.ratio:.3f}, "
            f"rendering {speed.rendering:,.0f}, together saves {speed.together_saves:.2f}, binds: {speed.binds}; "
            f"failed: {speed.failed}"
        )

    return act


RENDERED = ("ofa_cifar_cnn", "ofa_cifar_msa", "ofa_imagenet_cnn")


def rendering(report: Report) -> Callable[[Section, float], None]:
    """Return a section that renders by several recipes and numbers of processes, without training."""

    def act(section: Section, box: float) -> None:
        counts = [n for n in (1, 4, 8, usable_cores() - 1) if 0 < n < usable_cores()]
        counts = [1] if report.tiny else list(dict.fromkeys(counts))
        rows = ["| recipe | processes | images/s |", "|:--|--:|--:|"]
        for name in RENDERED[:1] if report.tiny else RENDERED:
            dataset = "imagenet1k" if "imagenet" in name else "cifar100"
            recipe = load_recipe(name).override({"global_batch": 64, "local_batch": 64})
            data = synthetic_dataset(dataset, dataset_facts(dataset))
            for workers in counts:
                stream = SampleStream(data, recipe, 0, workers=workers, pin_memory=report.device.type == "cuda")
                rows.append(f"| {name} | {workers} | {stream_rate(stream, workers, Limit(seconds=6)):,.0f} |")
                section.text = "## Rendering, 224 px, images of noise\n\n" + "\n".join(rows)
                del stream
        report.say(section.text)

    return act


@contextlib.contextmanager
def _flags(values: dict[str, bool]) -> Iterator[None]:
    """Set flags of torch.backends inside the block."""
    before = {}
    for name, value in values.items():
        *path, last = name.split(".")
        owner = torch.backends
        for part in path:
            owner = getattr(owner, part)
        before[name] = owner, last, getattr(owner, last)
        setattr(owner, last, value)
    try:
        yield
    finally:
        for owner, last, value in before.values():
            setattr(owner, last, value)


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block after so many seconds, where the system has alarms."""

    def ring(*_: Any) -> None:
        raise OutOfTime(f"took longer than {seconds:.0f} s")

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def machine(device: torch.device) -> dict[str, Any]:
    """Return the facts of the machine that a reader needs."""
    facts: dict[str, Any] = {"device": device_name(device), "cores": os.cpu_count()}
    if device.type == "cuda":
        facts["memory_gb"] = round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1)
        facts["cuda"] = torch.version.cuda
        facts["cudnn"] = torch.backends.cudnn.version()
    facts |= {"torch": torch.__version__, "python": platform.python_version(), "system": platform.system()}
    return facts


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _relative(argument: str) -> str:
    path = Path(argument)
    return path.name if path.is_absolute() else argument


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "measurements", help="folder of the page")
    parser.add_argument("--budget", type=float, default=560, help="seconds for all")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="small models and few steps: tries the script")
    parser.add_argument("--only", default="", help="sections whose names have this in them")
    options = parser.parse_args()
    report = Report(options.out, options.budget, torch.device(options.device), options.tiny)
    quick = "(kd and not fofa) and not compile" if options.tiny else "not compile"
    plan = [("tests on the device", 0.3 * options.budget, tests(report, quick))]
    cases = TINY if options.tiny else MEASUREMENTS
    plan += [(case.name, case.box, measure(report, case)) for case in cases]
    plan.insert(5, ("rendering", 45.0, rendering(report)))
    plan += [("tests of compiled steps", 100.0, tests(report, "compile and kd" if options.tiny else "compile"))]
    for name, box, act in plan:
        if options.only in name:
            report.section(name, box, act)
    report.write()
    report.say(f"written: {report.name}.md")


if __name__ == "__main__":
    main()

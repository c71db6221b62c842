"""Measure on this machine's CPU what the engine, lanes, tapes, rendering and a large store cost; write one dated page.

    python -m scripts.cpu_report                   # docs/measurements/DATE-cpu-N-cores.md, in a quarter of an hour
    python -m scripts.cpu_report --tiny --out out  # tries the script itself
    python -m scripts.cpu_report --only store      # sections whose names have this in them

What is compared takes turns, one repetition after the other, and a number is the median over the repetitions. Steps are
timed by the processor's time of their one thread, commands and rendering by the clock.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import timm
import torch

from cakdbench.data.datasets import dataset_facts
from cakdbench.data.stream import SampleStream
from cakdbench.data.synthetic import synthetic_dataset
from cakdbench.engine.speed.timing import Limit, stream_rate
from cakdbench.recipes import load_recipe
from cakdbench.registry import methods_named
from cakdbench.utils.device import usable_cores
from tests.benchmarks import test_engine_speed as engine
from tests.benchmarks import test_store_speed as store
from tests.cli_lab import Shell, make_folder
from tests.train.training import Training, short_recipe, small_dataset

ROOT = Path(__file__).parents[1]
RECIPES = ("ofa_cifar_cnn", "ofa_cifar_msa", "ofa_imagenet_cnn", "ofa_imagenet_msa")
Rows = list[list[str]]
Section = Callable[[float, bool], Iterator[str]]
"""Takes seconds that it may use and whether all is tiny; yields paragraphs and tables."""


def repetitions(seconds: float, most: int) -> Iterator[int]:
    """Yield numbers until so many are reached or the next would, at the pace so far, end too late."""
    started = time.monotonic()
    for number in range(most):
        if number and (time.monotonic() - started) * (number + 1) / number > seconds:
            return
        yield number


def table(head: str, rows: Rows) -> str:
    """Return a table in markdown; all columns but the first are numbers."""
    names = head.split(" | ")
    lines = [names, [":--", *["--:"] * (len(names) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def median(values: list[float]) -> float:
    return statistics.median(values)


def spread(values: list[float]) -> str:
    """Return a median with the range of the repetitions."""
    return f"{median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def engine_over_loop(seconds: float, tiny: bool) -> Iterator[str]:
    """KD by the engine over KD by a loop written by hand, on the same rendered batches, with the same losses."""
    rows: Rows = []
    pairs = list(engine.PAIRS)[:1] if tiny else list(engine.PAIRS)
    for pair, share in zip(pairs, (0.2, 0.8)):
        turn, ratios, steps = engine.Turn(pair), [], []
        turn.take()  # the first one warms up
        for _ in repetitions(share * seconds, 2 if tiny else 9):
            ratio, step = turn.take()
            ratios.append(ratio)
            steps.append(1000 * step)
        rows.append([pair, f"{median(steps):.1f}", spread(ratios), str(len(ratios))])
    yield table("pair | ms a step of the loop | engine over loop | repetitions", rows)


def busy_seconds(methods: tuple[str, ...], names: tuple[str, str], size: int, batch: int, images: int, **more) -> float:
    """Return the processor's seconds of a training with these lanes, evaluation left out."""
    numbers = {"epochs": 1, "global_batch": batch, "local_batch": batch, "schedule.warmup_epochs": 0}
    more |= {"teacher": names[0], "student": names[1], "dataset": small_dataset(images, 1)}
    training = Training(methods, short_recipe(image_size=size, **numbers), **more)
    started = time.process_time()
    training.run()
    return time.process_time() - started


def lanes(seconds: float, tiny: bool) -> Iterator[str]:
    """Lanes beside each other, with one pass of the teacher and of the rendering, over one after the other."""
    every = tuple(methods_named("all"))
    first = ("kd", "ofa", "dist", "dkd", "rkd", "cc", "crd", "scratch")
    order = (*first, *(method for method in every if method not in first))
    cases = {"swin_m → mobilenet_s, 64 px, 128 images": (("swin_m", "mobilenet_s"), 64, 32, 128)}
    if not tiny:
        cases["swin_t → mobilenetv2, 224 px, 32 images"] = ("swin_t", "mobilenetv2"), 224, 16, 32
    for (pair, case), share in zip(cases.items(), (0.5, 0.5)):
        counts = (2, 4) if tiny else (2, 4, 8, len(order)) if case[1] == 64 else (2, 4, 8)
        saved: dict[int, list[float]] = {count: [] for count in counts}
        for _ in repetitions(share * seconds, 1 if tiny else 5):
            alone = [busy_seconds((method,), *case) for method in order[: max(counts)]]
            for count in counts:
                saved[count].append(sum(alone[:count]) / busy_seconds(order[:count], *case))
        yield f"{pair}; {len(saved[2])} repetitions; lanes in this order: {', '.join(order[: max(counts)])}."
        yield table("lanes | apart over together", [[str(count), spread(saved[count])] for count in counts])


def tapes(seconds: float, tiny: bool) -> Iterator[str]:
    """KD with its teacher live, while it is recorded, and from tape."""
    cases = {"resnet_m → vit_xs, 64 px": (("resnet_m", "vit_xs"), 64, 16, 64)}
    if not tiny:
        cases["swin_t → mobilenetv2, 224 px"] = ("swin_t", "mobilenetv2"), 224, 16, 32
        cases["mixer_b16 → mobilenetv2, 224 px"] = ("mixer_b16", "mobilenetv2"), 224, 16, 32
    rows: Rows = []
    for pair, case in cases.items():
        recorded, taped = [], []
        for _ in repetitions(seconds / len(cases), 2 if tiny else 7):
            with tempfile.TemporaryDirectory() as place:
                live = busy_seconds(("kd",), *case)
                recorded.append(busy_seconds(("kd",), *case, tape=Path(place)) / live)
                taped.append(live / busy_seconds(("kd",), *case, tape=Path(place)))
        rows.append([pair, spread(recorded), spread(taped), str(len(taped))])
    yield table("pair | recording over live | live over taped | repetitions", rows)


def rendering(seconds: float, tiny: bool) -> Iterator[str]:
    """Training views at 224 px in batches of 16, images of noise in the datasets' form, no training beside."""
    counts = sorted({0, 1, usable_cores()})
    rates: dict[tuple[str, int], list[float]] = {}
    names = RECIPES[:1] if tiny else RECIPES
    for _ in repetitions(seconds, 1 if tiny else 5):
        for name in names:
            dataset = "imagenet1k" if "imagenet" in name else "cifar100"
            recipe = load_recipe(name).override({"global_batch": 16, "local_batch": 16})
            data = synthetic_dataset(dataset, dataset_facts(dataset))
            for workers in counts:
                stream = SampleStream(data, recipe, 0, workers=workers)
                rates.setdefault((name, workers), []).append(stream_rate(stream, workers, Limit(seconds=8)))
    rows = [[name, *(f"{median(rates[name, workers]):,.0f}" for workers in counts)] for name in names]
    heads = ["in the training process" if n == 0 else f"{n} rendering process{'es' * (n > 1)}" for n in counts]
    yield f"Images per second, medians of {len(rates[names[0], 0])} repetitions."
    yield table(" | ".join(["recipe", *heads]), rows)


def large_store(seconds: float, tiny: bool) -> Iterator[str]:
    """Commands on a store of finished runs, each a process of its own with its imports, by the clock."""
    runs = 200 if tiny else store.RUNS
    with tempfile.TemporaryDirectory() as place:
        root = store.fill(Path(place) / "runs", runs)
        times: dict[str, list[float]] = {}
        for _ in repetitions(0.8 * seconds, 1 if tiny else 3):
            for name, command in store.commands(root, Path(place)).items():
                if name == store.WITHOUT_INDEX:
                    (root / "index.jsonl").unlink()
                times.setdefault(name, []).append(store.measure(command)[0])
        rows = [[f"`{name}`", f"{median(values):.1f}"] for name, values in times.items()]
        yield f"{runs:,} runs; medians of {len(next(iter(times.values())))} repetitions."
        yield table("command | seconds", rows)


def second_run(seconds: float, tiny: bool) -> Iterator[str]:
    """The same command again on a finished grid: all methods on one pair, two epochs of 40 images, boards included."""
    with tempfile.TemporaryDirectory() as place:
        shell = Shell(make_folder(Path(place) / "data", 4, 3), Path(place))
        command = shell.command("--methods", "kd" if tiny else "all")
        first, again = store.measure(command)[0], []
        for _ in repetitions(seconds - first, 5):
            wall, output = store.measure(command)
            assert "epoch 1/" not in output
            again.append(wall)
        (Path(place) / "empty").mkdir()
        nothing, _ = store.measure(["status", "--store", str(Path(place) / "empty")])
        row = [f"{first:.1f}", spread(again), f"{nothing:.1f}"]
        yield table("first run, s | the same again, s | `status` of an empty store, s", [row])


SECTIONS: dict[str, tuple[Section, float]] = {
    "Engine over a loop written by hand": (engine_over_loop, 250),
    "Lanes together over apart": (lanes, 220),
    "Tape": (tapes, 130),
    "Rendering": (rendering, 90),
    "A large store": (large_store, 180),
    "The second run of a finished grid": (second_run, 70),
}


def conditions() -> str:
    """Return the machine and what it computes with, as a paragraph."""
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    packages = f"torch {torch.__version__.partition('+')[0]}, timm {timm.__version__}"
    machine = f"{usable_cores()} cores ({platform.machine()}, {platform.system()}), Python {platform.python_version()}"
    return f"{machine}, {packages}, fp32, {torch.get_num_threads()} thread a process{load}."


def method() -> str:
    """Return the last paragraph of this file's text: how it measures."""
    return " ".join((__doc__ or "").strip().split("\n\n")[-1].split())


def write(path: Path, parts: list[str]) -> None:
    path.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "measurements", help="folder of the page")
    parser.add_argument("--only", default="", help="sections whose names have this in them")
    parser.add_argument("--tiny", action="store_true", help="little of everything: tries the script")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started, chosen = time.monotonic(), {n: s for n, s in SECTIONS.items() if options.only.lower() in n.lower()}
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    name = f"{day}-cpu-{usable_cores()}-cores.md"
    parts = [f"# {usable_cores()} CPU cores, {day}", f"`python -m scripts.cpu_report`: {conditions()}", method()]
    options.out.mkdir(parents=True, exist_ok=True)
    for title, (section, seconds) in chosen.items():
        parts += [f"## {title}", section.__doc__ or "", *section(seconds, options.tiny)]
        write(options.out / name, parts)
        print(f"[{time.monotonic() - started:.0f} s] {title}\n{parts[-1]}", flush=True)
    print(f"written: {name}")


if __name__ == "__main__":
    main()

"""Compute a grid on a Ray cluster of two nodes of one core each, kill a node twice, and say what became of it.

    python -m scripts.ray_grid --store grid                                      # all methods, the demo, three seeds
    python -m scripts.ray_grid --store grid --compare runs                       # against a store made without Ray
    python -m scripts.ray_grid --store tiny --methods kd --pairs "resnet_m>vit_xs@fashion_tiny" --seeds 0    # tries it

A node dies once a third of the runs is done and once two thirds are; another one takes its place. The last line has the
runs, those whose files are not the ones of the other store, and the wall time over the work divided by the cores. The
work is what the records say that their students were busy: rendering, the teacher's passes and every start come on top.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cakdbench.engine.options import run_options
from cakdbench.engine.session import Session
from cakdbench.store import Store
from scripts.kill_test import cluster_of_two, differing, results

CORES, KILLS = 2, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="an empty folder, or none yet")
    parser.add_argument("--methods", default="all")
    parser.add_argument("--pairs", default="demo")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--compare", type=Path, help="a store with the same runs, computed in one process")
    options = parser.parse_args()
    total = count_runs(options)
    with cluster_of_two() as cluster:
        seconds, kills = watch(options, cluster, total)
    text, whole = verdict(options, total, seconds, kills)
    print(text)
    raise SystemExit(not whole)


def count_runs(options: argparse.Namespace) -> int:
    """Return how many runs the grid has, with its teachers."""
    seeds = tuple(int(seed) for seed in options.seeds.split(","))
    where = {"pairs": options.pairs, "seeds": seeds, "store": options.store, "cpu": True}
    preview = Session(run_options(options.methods, options.set, **where)).preview
    assert not Store(options.store).records()[0], f"{options.store} has runs already"
    return len(preview.states) + len(preview.trainings)


def watch(options: argparse.Namespace, cluster: Any, total: int) -> tuple[float, int]:
    """Run the command and kill nodes meanwhile; return the seconds it took and how many were killed."""
    options.store.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "cakdbench", "run", "--methods", options.methods, "--pairs", options.pairs]
    command += ["--seeds", options.seeds, "--store", str(options.store), "--cpu", "--yes", "--launcher", "ray"]
    command += ["--ray-address", cluster.address, "--checkpoint-seconds", "30", "--set", *options.set]
    started, kills = time.monotonic(), 0
    with open(options.store / "ray_grid.log", "w") as log:
        process = subprocess.Popen(command if options.set else command[:-1], stdout=log, stderr=log)
        while process.poll() is None:
            time.sleep(0.2)
            done = len(list(options.store.glob("*/record.json")))
            if kills < KILLS and done >= total * (kills + 1) / (KILLS + 1):
                cluster.remove_node(list(cluster.worker_nodes)[kills % CORES], allow_graceful=False)
                cluster.add_node(num_cpus=1)
                kills += 1
    return time.monotonic() - started, kills


def verdict(options: argparse.Namespace, total: int, seconds: float, kills: int) -> tuple[str, bool]:
    """Return the line of results, and whether all is there and as it should be."""
    records, damage = Store(options.store).records()
    work = sum(record.conditions.seconds for record in records)
    text = f"{len(records)} of {total} runs, {len(damage)} damaged, {kills} nodes killed; "
    others: list[str] = []
    if options.compare:
        runs = results(options.store)
        known = results(options.compare)
        others = differing({key: files for key, files in known.items() if key in runs}, runs)
        text += f"{len(others)} of {len(runs)} differ from {options.compare.name}; "
    ratio = seconds / (work / CORES)
    text += f"{seconds:,.0f} s for {work:,.0f} s of work on {CORES} cores: {ratio:.3f} of work / cores"
    return text, len(records) == total and not damage and not others


if __name__ == "__main__":
    main()

"""Kill processes of a real grid at random moments, type the same command again, compare with an undisturbed run.

    python -m scripts.kill_test --kills 200            # from the root of the repository; half of them on a Ray cluster
    python -m scripts.kill_test --kills 30 --only local

The grid: five methods, three with modules of their own, on a pair of small models, two seeds, the teacher included.
It is run to its end again and again, each time in an empty store and in another way (`WAYS`), while SIGKILL falls on
a process of its tree at random: the command itself, its workers, processes that render, on Ray also a whole node.
What ended is started again at once; in the end every file of a result has to be that of the undisturbed run, no
finished run may have been written twice, and no step that was saved may have been made again.
"""

import argparse
import contextlib
import json
import multiprocessing
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from cakdbench.engine.run_log import STEP, log_file
from cakdbench.store import Store, checkpoint_step
from cakdbench.store.files import read_sums
from tests.cli_lab import Child, Shell, cakdbench_command, descendants, make_folder, renderers, stop_forking

DATASET = "timm:folder/tiny"
PAIR = f"swin_m>resnet_s@{DATASET}"
NUMBERS = ("global_batch=20", "local_batch=20", "epochs=2")
RUNS = 5 * 2 + 1
PATIENCE = 900
"""Seconds without a step forward after which a grid counts as hung."""
WORKERS = ("ray::_labour", "cakdbench.engine.launch.worker")
"""What a worker of a launcher is known by."""
ENTRY = '[[teachers]]\nmodel = "{}"\ndataset = "{}"\ntrain = "demo_teacher"\n'


@dataclass(frozen=True)
class Way:
    """A way to run the grid; `teacher`: its teacher is trained by a command of its own."""

    name: str
    launcher: str = "local"
    options: tuple[str, ...] = ()
    teacher: bool = False


WAYS = (
    Way("two processes"),
    Way("rendering processes", options=("--workers", "1")),
    Way("tape", options=("--tape",)),
    Way("teacher train, then one process", options=("--jobs", "1"), teacher=True),
    Way("Ray", "ray"),
    Way("Ray, rendering processes", "ray", ("--workers", "1")),
    Way("Ray, tape", "ray", ("--tape",)),
)


@dataclass
class Grid:
    """One grid on its way to its end, and what was seen of it.

    Attributes:
        kills: by what was killed.
        lost: finished runs that were there and are not.
        repeated: finished runs whose record was written again.
        steps: saved steps that were made again.
        ends: of commands that nobody killed: exit codes other than 0 with the last line.
        failures: of runs, which no kill may cause.
        differing: runs whose files are not those of the undisturbed run.
    """

    way: str
    commands: int = 0
    seconds: float = 0.0
    kills: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    steps: int = 0
    ends: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """Return what must not be; a command that ends by itself and says why may be typed again."""
        odd = [end for end in self.ends if "Traceback" in end or not end.startswith(("1: ", "130: "))]
        return [*self.lost, *self.repeated, *self.failures, *self.differing, *odd, *["steps made again"] * self.steps]


class Watch:
    """Compares a store with how it was at the last look."""

    def __init__(self, store: Path, grid: Grid):
        self.store, self.grid = store, grid
        self.finished: dict[str, int] = {}
        self.saved: dict[str, int] = {}
        self.begun: dict[str, str] = {}
        self.moved, self._stand = time.monotonic(), (0, 0)

    def look(self) -> None:
        """Note what was lost, repeated, or failed."""
        now = {path.parent.name: path.stat().st_mtime_ns for path in self.store.glob("*/record.json")}
        self.grid.lost += [f"lost: {key}" for key in self.finished if key not in now]
        self.grid.repeated += [f"again: {key}" for key, date in self.finished.items() if now.get(key, date) != date]
        self.finished |= now
        for run in Store(self.store).runs():
            self._look_at(run.path)
            if (reason := run.failure()) and (told := f"failed: {run.key}: {reason}") not in self.grid.failures:
                self.grid.failures.append(told)
        stand = len(self.finished), sum(self.saved.values())
        if stand != self._stand:
            self.moved, self._stand = time.monotonic(), stand

    def _look_at(self, folder: Path) -> None:
        """Count steps that were behind a run when it was last looked at, and were made again since."""
        begun = last_beginning(folder)
        if begun and begun != self.begun.get(folder.name):
            self.grid.steps += max(0, self.saved.get(folder.name, 0) - int(STEP.search(begun)[1]))
            self.begun[folder.name] = begun
        self.saved[folder.name] = max(self.saved.get(folder.name, 0), checkpoint_step(folder / "checkpoints"))


def last_beginning(folder: Path) -> str:
    """Return the last line of a run's log that says from where it went on; nothing without one."""
    try:
        lines = log_file(folder).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    beginnings = [line for line in lines if STEP.search(line) and line.endswith((": goes on from its checkpoint",))]
    return beginnings[-1] if beginnings else next((line for line in lines if "start: " in line), "")


class Killer:
    """Types commands, and kills processes of their trees.

    Args:
        moments: the source of all chance.
        longest: seconds between two kills at most.
    """

    def __init__(self, data: Path, moments: random.Random, longest: float, log: Path):
        self.data, self.moments, self.longest, self.log = data, moments, longest, log
        self.cluster: Any = None

    def run(self, way: Way, work: Path, kills: int) -> Grid:
        """Bring a grid to its end, under so many kills at most."""
        grid, started = Grid(way.name), time.monotonic()
        watch = Watch(work / "runs", grid)
        commands = list(self._commands(way, work))
        for number, command in enumerate(commands, 1):
            self._complete(command, way, watch, kills * number // len(commands))
        grid.seconds = time.monotonic() - started
        return grid

    def _commands(self, way: Way, work: Path) -> Iterator[list[str]]:
        work.mkdir(parents=True)
        entries = work / "teachers.toml"
        entries.write_text(ENTRY.format("swin_m", DATASET))
        places, teacher = Shell(self.data, work).places(), [f"teacher.{number}" for number in NUMBERS]
        known = [*places, "--cpu", "--teachers", str(entries)]
        if way.teacher:
            numbers = [f"recipe.{number}" for number in NUMBERS]
            yield ["teacher", "train", f"swin_m@{DATASET}", *known, "--set", *numbers]
        jobs = [] if "--jobs" in way.options else ["--jobs", "2"]
        ray = ["--launcher", "ray", "--ray-address", self.cluster.address] if way.launcher == "ray" else []
        yield ["run", "--methods", "fbt,fofa,crd", "--pairs", PAIR, "--seeds", "0,1", *places, "--cpu", "--recipe",
               "demo", "--teachers", str(entries), "--boards", str(work / "boards"), "--checkpoint-seconds", "0.2",
               "--max-lanes", "5", "--keep", "modules", *jobs, *ray, *way.options, "--yes", "--set",
               *(f"recipe.{number}" for number in NUMBERS), *teacher]  # fmt: skip

    def _complete(self, command: list[str], way: Way, watch: Watch, kills: int) -> None:
        """Type a command until it gets through."""
        grid, done = watch.grid, False
        while not done:
            grid.commands += 1
            program = Child(type_in, command, daemon=False)
            while self._waits(program, watch):
                if grid.kills.total() < kills:
                    self._kill(program, way, grid)
            code, output = program.finish()
            watch.look()
            done = code == 0
            if code not in (0, -signal.SIGKILL):
                grid.ends.append(f"{code}: {tail(output)}")
                self._note(grid, f"ended by itself: {code}\n{output}")

    def _waits(self, program: Child, watch: Watch) -> bool:
        """Wait for the moment of the next kill; False if the command has ended before."""
        program.process.join(self.moments.uniform(0.1, self.longest))
        watch.look()
        if time.monotonic() - watch.moved > PATIENCE:
            program.process.kill()
            raise SystemExit(f"hung: no step forward in {PATIENCE} s; see {watch.store}")
        return program.process.is_alive()

    def _kill(self, program: Child, way: Way, grid: Grid) -> None:
        victims = self._victims(program.process.pid, way)
        if not victims or (len(victims) == 1 and self.moments.random() < 0.7):
            return  # most of the time other processes than the command are to die, once they are there
        kinds = sorted(victims)
        (kind,) = self.moments.choices(kinds, [1 if kind == "command" else 3 for kind in kinds])
        if kind == "node":
            self.cluster.remove_node(self.moments.choice(list(self.cluster.worker_nodes)), allow_graceful=False)
            self.cluster.add_node(num_cpus=1)
        else:
            try:
                self.moments.choice(victims[kind]).kill()
            except psutil.NoSuchProcess:
                return
        grid.kills[kind] += 1
        self._note(grid, f"killed: {kind}")

    def _victims(self, pid: int, way: Way) -> dict[str, list[psutil.Process]]:
        """Return the processes that may die, by what they are; only such as were started from here."""
        victims: dict[str, list[psutil.Process]] = {"command": [], "worker": [], "renderer": []}
        with contextlib.suppress(psutil.NoSuchProcess):  # it ends meanwhile
            victims["command"] = [psutil.Process(pid)]
            root = psutil.Process() if way.launcher == "ray" else victims["command"][0]
            victims["renderer"] = renderers(root.pid)
            below = [process for process, words in descendants(root.pid) if any(name in words for name in WORKERS)]
            victims["worker"] = [process for process in below if process not in victims["renderer"]]
        found = {kind: processes for kind, processes in victims.items() if processes}
        return found | ({"node": []} if way.launcher == "ray" and "worker" in found else {})

    def _note(self, grid: Grid, text: str) -> None:
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {grid.way}, command {grid.commands}: {text}\n")


def type_in(words: list[str]) -> None:
    """Give a command in a process that starts others as one of a shell does, without the time of its imports."""
    if "fork" in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method("fork", force=True)
    cakdbench_command(None, *words)


def tail(output: str) -> str:
    """Return the last line that a command printed, and whether there was a traceback."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it says nothing"]
    return lines[-1] + " (Traceback)" * ("Traceback" in output)


def results(store: Path) -> dict[str, dict[str, str]]:
    """Return the sums of the files that must not depend on interruptions, by the runs' keys."""
    sums = {path.parent.name: read_sums(path.parent) for path in store.glob("*/record.json")}
    return {key: {name: value for name, value in files.items() if name != "record.json"} for key, files in sums.items()}


def differing(calm: dict[str, dict[str, str]], other: dict[str, dict[str, str]]) -> list[str]:
    """Return the keys under which not the same lies."""
    return [f"differs: {key}" for key in sorted(calm.keys() | other.keys()) if calm.get(key) != other.get(key)]


@contextlib.contextmanager
def cluster_of_two() -> Iterator[Any]:
    """Start a Ray cluster: a head without cores, and two nodes of one core each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def ordeal(killer: Killer, ways: list[Way], kills: int, each: int, work: Path, calm: dict) -> Iterator[Grid]:
    """Yield grids, one after the other and in all ways in turn, until so many kills have fallen."""
    fallen, number = 0, 0
    while fallen < kills:
        place = work / f"{number:03d}"
        grid = killer.run(ways[number % len(ways)], place, min(each, kills - fallen))
        grid.differing = differing(calm, results(place / "runs"))
        fallen, number = fallen + grid.kills.total(), number + 1
        yield grid


def report(grids: list[Grid]) -> str:
    """Return a table of what was done and seen, a row a way."""
    rows = [
        "| way | grids | commands | kills | of them | ended by themselves | faults |",
        "|:--|--:|--:|--:|:--|--:|--:|",
    ]
    for name in dict.fromkeys(grid.way for grid in grids):
        own = [grid for grid in grids if grid.way == name]
        kills = sum((grid.kills for grid in own), Counter())
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(kills.items()))
        ends, faults = sum(len(grid.ends) for grid in own), sum(len(grid.faults) for grid in own)
        commands = sum(grid.commands for grid in own)
        rows.append(f"| {name} | {len(own)} | {commands} | {kills.total()} | {kinds} | {ends} | {faults} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--each", type=int, default=8, help="kills a grid at most")
    longest = "seconds between two kills at most; default: a tenth of an undisturbed grid's"
    parser.add_argument("--longest", type=float, help=longest)
    parser.add_argument("--only", default="", help="ways whose names or launcher have this in them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder that keeps stores and log; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run(options, options.out or Path(temporary))
    stop_forking()


def run(options: argparse.Namespace, out: Path) -> None:
    """Do what the options say, and print a table; exit with 1 if there was a fault."""
    out.mkdir(parents=True, exist_ok=True)
    killer = Killer(make_folder(out / "data"), random.Random(options.seed), options.longest or 5, out / "log.txt")
    calm = killer.run(WAYS[0], out / "calm", 0)
    sums, grids = results(out / "calm" / "runs"), []
    assert len(sums) == RUNS and not calm.faults, calm
    print(f"undisturbed: {RUNS} runs in {calm.seconds:.0f} s", flush=True)
    killer.longest = options.longest or calm.seconds / 10
    chosen = [way for way in WAYS if options.only in (way.launcher, "") or options.only in way.name]
    launchers = list(dict.fromkeys(way.launcher for way in chosen))
    for launcher in launchers:
        ways = [way for way in chosen if way.launcher == launcher]
        with cluster_of_two() if launcher == "ray" else contextlib.nullcontext() as killer.cluster:
            kills = options.kills // len(launchers)
            for grid in ordeal(killer, ways, kills, options.each, out / launcher, sums):
                grids.append(grid)
                print(json.dumps(vars(grid) | {"faults": grid.faults}), flush=True)
    print(report(grids))
    raise SystemExit(any(grid.faults for grid in grids))


if __name__ == "__main__":
    main()

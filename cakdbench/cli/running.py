"""Say and ask around a session of `run` and `teacher`: the plan, the estimate, progress, failures."""

from collections import Counter
from pathlib import Path

from cakdbench.cli.changed import changed_listings, changed_numbers
from cakdbench.cli.options import console, errors, say
from cakdbench.cli.tables import Listing
from cakdbench.engine.estimate import Estimate
from cakdbench.engine.launch.choice import Launch
from cakdbench.engine.options import RunOptions
from cakdbench.engine.progress import duration, progress_on
from cakdbench.engine.session import Session
from cakdbench.engine.tape_plan import TapePlan
from cakdbench.grid.suites import own_suites
from cakdbench.recipes import Recipe
from cakdbench.utils.errors import UsageError
from cakdbench.utils.interrupt import GracefulInterrupt
from cakdbench.utils.sizes import size_text

LONG = 2 * 3600
"""Seconds on a CPU above which a run asks before it starts."""
PATIENCE = 60
"""Seconds of computing that a dry run spends on predicting memory: some sixty kinds of runs."""


class Command:
    """A session in front of a user: its events are shown, and the first Ctrl-C saves all lanes and ends."""

    def __init__(self, options: RunOptions):
        self.interrupt = GracefulInterrupt()
        self.progress = progress_on(console)
        self.session = Session(options, self.progress, self.interrupt)
        console.quiet = not self.session.accelerator.is_main_process


def run_plan(options: RunOptions, boards: Path, launch: Launch, yes: bool) -> bool:
    """Run what the options name and write the boards; False if a run failed.

    Args:
        launch: where the processes come from.
        yes: start without asking.

    Raises:
        CakdError: something is missing or wrong, or the user stopped.
    """
    launch.check(options)
    command = Command(options)
    session = command.session
    launch.tell(session)
    session.require_ready()
    if not yes and launch.is_here:
        confirm(session)
    _say_refusals(session)
    if session.tapes:
        say(f"tapes to record: {session.tapes}")
    with command.interrupt, command.progress:
        outcome = session.run(launch.make(session))
    if session.accelerator.is_main_process:
        _write_boards(session, boards)
        for key, reason in outcome.failed.items():
            say(f"failed: {key}: {reason}", errors, style="red")
    session.accelerator.wait_for_everyone()  # a launcher ends all once one has ended with an exit code other than 0
    return not outcome.failed


def _write_boards(session: Session, folder: Path) -> None:
    from cakdbench.reports.page_experiment import experiment_board
    from cakdbench.reports.pages import write_boards, write_experiments  # a dry run does not wait for it
    from cakdbench.results.load import Evidence

    if session.experiment:
        evidence = Evidence(session.store, None, session.options.computing.data_dir)
        board = experiment_board(session.experiment, evidence, session.options.settings)
        write_experiments([board], folder, console)
        return
    data_dir, own = session.options.computing.data_dir, own_suites(session.options.pairs)
    shown = write_boards(Evidence(session.store, None, data_dir), session.specs, folder, console, own=own)
    for listing in changed_listings(session, shown):
        console.print(listing)


def show_plan(options: RunOptions, launch: Launch, measured: bool = False) -> None:
    """Print the plan: cells, refusals, teachers to train, obstacles, and an estimate, `measured` if need be."""
    launch.check(options)
    session = Command(options).session
    launch.tell(session)
    preview = session.preview
    console.print(_plan_listing(session))
    _say_refusals(session)
    for cell in preview.trainings:
        say(f"teacher to train first: {cell.pair.student} ({cell.recipe.name})")
    for obstacle in preview.obstacles:
        say(f"missing before it can start: {obstacle}")
    if session.tapes:
        say(f"tapes to record: {session.tapes}")
        _say_lack(session.tapes, session.store.root)
    if preview.obstacles:
        say("nothing was downloaded: a run fetches what it can where there is a connection")
    counts = Counter(state for _, state in preview.states)
    say(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    _show_peaks(session)
    estimate = _estimate(session, measured)
    for line in estimate.failed if estimate else ():
        say(f"a step fails: {line}")
    say(f"estimate: {_describe(session, estimate)}")


def _say_lack(tapes: TapePlan, root: Path) -> None:
    """Say so if the disk has no room for the tapes."""
    try:
        tapes.require_room(root)
    except UsageError as error:
        say(f"missing before it can start: {error}")


def _plan_listing(session: Session) -> Listing:
    methods: dict[tuple[str, Recipe, int], list[str]] = {}
    for cell, state in session.preview.states:
        name = cell.label if state == "planned" else f"{cell.label} ({state})"
        methods.setdefault((str(cell.pair), cell.recipe, cell.seed), []).append(name)
    rows = [
        {
            "pair": pair,
            "seed": seed,
            "methods": labels,
            "recipe": recipe.name,
            "changed": changed_numbers(recipe, session.specs) or None,
        }
        for (pair, recipe, seed), labels in methods.items()
    ]
    return Listing(rows, ["methods", "changed"], ["seed"], "plan")


def _show_peaks(session: Session) -> None:
    """Print how much memory each method will take on each pair."""
    with console.status("predicting memory"):
        peaks, left_out = session.predict_peaks(PATIENCE)
    rows: dict[str, list[str]] = {}
    for work, peak in peaks:
        text = f"{work.cell.label} {size_text(peak.total) if peak else '?'}"
        rows.setdefault(str(work.cell.pair), []).append(text)
    if rows:
        title = "predicted peak memory of each student alone, its teacher included; a device adds its own"
        console.print(Listing([{"pair": pair, "peaks": texts} for pair, texts in rows.items()], ["peaks"], (), title))
    for name, groups in session.passes(peaks).items():
        if len(groups) > 1:
            turns = "; ".join(", ".join(labels) for labels in groups)
            say(f"not all side by side, for memory, in {len(groups)} passes over the data: {name}: {turns}")
    if left_out:
        say(f"no prediction of {left_out} further kinds of runs, for time; `cakdbench cost` has all")


def _say_refusals(session: Session) -> None:
    for refusal in session.plan.refusals:
        say(f"refused: {refusal.label} on {refusal.pair}: {refusal.reason}")
    if session.options.computing.keep_ema and not any(cell.recipe.ema_decay for cell in session.plan.cells):
        say("no averaged weights to keep: none of the recipes has an ema_decay (--set recipe.ema_decay=0.999)")
    if lacking := _not_kept(session):
        say(f"done already, without what --keep asks for (remove their folders to train them anew): {lacking}")


def _not_kept(session: Session) -> str:
    """Return the finished runs of the plan that lack what `--keep` asks for, and what."""
    keep, made = session.options.computing, []
    if keep.keep_ema or keep.keep_modules:
        done = [cell for cell, state in session.preview.states if state == "done"]
        for task in session.harness.tasks([*filter(None, map(session.harness.ground, done))]):
            folder, beside = task.folder, task.folder.record().extra_parameters
            ema = keep.keep_ema and task.cell.recipe.ema_decay and not folder.ema.is_file()
            modules = keep.keep_modules and beside and not folder.modules.is_file()
            if lacks := ["ema"] * bool(ema) + ["modules"] * bool(modules):
                made.append(f"{folder.key} ({', '.join(lacks)})")
    return ", ".join(made)


def _estimate(session: Session, measured: bool = False) -> Estimate | None:
    with console.status("timing one training step of each kind" if measured else "counting"):
        return session.estimate(measured)


def _describe(session: Session, estimate: Estimate | None) -> str:
    """Return an estimate as a sentence."""
    if estimate is None:
        return "nothing left to do"
    device = "CPU" if session.accelerator.device.type == "cpu" else "GPU"
    return (
        f"about {_rough(estimate.seconds)} ({_rough(estimate.low)} to {_rough(estimate.high)}) in one process on "
        f"this {device}, from {estimate.basis}; rendering, evaluation and checkpoints come on top"
    )


def _rough(seconds: float) -> str:
    """Return a duration, no finer than an estimate deserves."""
    return duration(seconds) if seconds < 2 * 3600 else f"{seconds / 3600:,.0f} hours"


def confirm(session: Session) -> None:
    """Say what a long run without a GPU will cost, and ask.

    Raises:
        UsageError: the user does not want it, or cannot be asked.
    """
    if session.accelerator.device.type == "cuda":
        return
    estimate = _estimate(session)
    if estimate is None or estimate.seconds < LONG:
        return
    say(f"There is no GPU here. Estimate: {_describe(session, estimate)}.")
    if not (console.is_interactive and console.input("Start all the same? [y/N] ").lower() == "y"):
        raise UsageError("not started; add --yes to run it on the CPU all the same, or take a smaller suite (demo)")


def train_teacher(
    options: RunOptions, model: str, dataset: str, recipe: str | None, seed: int | None, file: Path
) -> None:
    """Train a teacher and print its accuracy; see `Session.train_teacher`.

    Raises:
        CakdError: there is nothing to train, or training failed.
    """
    command = Command(options)
    with command.interrupt, command.progress:
        changed = command.session.train_teacher(model, dataset, recipe, seed, file)
    for number in changed:
        say(f"other than its entry was: {number}")
    if command.session.teachers.entry(model, dataset).sha256:
        say(f"its entry is in {file}; `cakdbench teacher remove {model}@{dataset}` takes it out")
    _print_check(command.session, model, dataset)


def check_teacher(options: RunOptions, model: str, dataset: str) -> None:
    """Evaluate a teacher and print it beside its entry."""
    _print_check(Command(options).session, model, dataset)


def _print_check(session: Session, model: str, dataset: str) -> None:
    check = session.check_teacher(model, dataset)
    facts = check.facts
    expected = "no expectation" if facts.expected is None else f"expected {facts.expected:.2f} ± {facts.tolerance}"
    say(f"{model}@{dataset} ({facts.source}): {facts.measured:.2f} %, {expected}")
    say(f"sha256 {check.sha256}")

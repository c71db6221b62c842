"""Lists and tables: every name in full, in a pipe and at 80 columns; or as JSON."""

import contextlib
import errno
import io
import json
import os
import pty
import signal
import subprocess
import sys

import pytest
from rich.text import Text

from cakdbench.cli import cards, listing
from cakdbench.cli.tables import IN_A_PIPE, MANY, Layout, Listing, make_console, print_rows
from cakdbench.utils.text import CONTROL
from tests.cli_lab import Child

PAIR = "resnet_m>vit_xs@fashion_demo"
LISTS = {
    "pairs": listing.pairs,
    "models": listing.models,
    "datasets": listing.datasets,
    "recipes": listing.recipes,
    "teachers": lambda: listing.teachers([]),
    "methods": lambda: cards.all_methods(PAIR),
    "variants": cards.all_variants,
}


def printed(renderable, width: int | None) -> str:
    """Return what a terminal of a width shows, or a pipe."""
    console = make_console(file=io.StringIO(), force_terminal=width is not None, width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


@pytest.fixture(scope="module", params=LISTS)
def listed(request) -> Listing:
    return LISTS[request.param]()


def test_a_pipe_has_every_value_in_full(listed):
    text = printed(listed, None)
    for row in listed.rows:
        assert all(str(value) in text for value in row.values() if isinstance(value, str) and "\n" not in value)


def test_a_narrow_terminal_cuts_no_name_and_says_what_it_leaves_out(listed):
    text = printed(listed, 80)
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    first, *others = (name for name in listed.rows[0] if name not in listed.prose)
    left_out = text.partition("no room for: ")[2].partition(" (a pipe")[0].replace("\n", " ").split(", ")
    for row in listed.rows:
        assert str(row[first]) in text
        for name in others:
            assert name in left_out or not isinstance(row.get(name), str) or row[name] in text


def test_a_name_that_is_wider_than_the_terminal_is_folded():
    text = printed(Listing([{"name": "x" * 50, "more": "y"}]), 30)
    assert text.count("x") == 50 and max(map(len, text.splitlines())) <= 30


@pytest.mark.parametrize("what", [name for name in LISTS if name not in ("variants", "models")])
def test_every_list_is_had_as_json(shell, what):
    code, output = shell("list", what, "--format", "json")
    first, *_ = json.loads(output)[0]
    assert code == 0 and [row[first] for row in json.loads(output)] == [row[first] for row in LISTS[what]().rows]


def test_without_rows_there_is_a_table_all_the_same():
    assert "nothing" in printed(Listing([]), 80)


def test_a_real_pipe_is_not_narrowed_by_COLUMNS():
    code = "from cakdbench.cli.options import console; print(console.width)"
    environment = {"COLUMNS": "80", "PATH": "/usr/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == IN_A_PIPE


@pytest.mark.parametrize("text", ["\x1b[2J\x1b[31m", "\x9b31m", "\x07\x08", "a\u202eb", "\r", "\x7f"])
def test_no_control_character_reaches_a_terminal(text, capsys):
    for shown in (text, Text(text), Listing([{"method": text}])):
        assert not CONTROL.search(printed(shown, 80) + printed(shown, None))
    print_rows(make_console(), Listing([{"method": text}]), Layout.json)
    for value in (text, Text(text), [text]):  # so many rows are written as lines, not drawn
        print_rows(make_console(), Listing([{"method": value}] * (MANY + 1)))
    assert not CONTROL.search(capsys.readouterr().out)


def test_a_closed_terminal_ends_nothing_and_other_errors_do():
    """The signal that tells of it may come after the first write that fails."""
    for number, goes_on in ((errno.EIO, True), (errno.ENOSPC, False)):
        file = io.StringIO()
        file.write = lambda text, number=number: (_ for _ in ()).throw(OSError(number, "-"))
        console = make_console(file=file)
        with contextlib.nullcontext() if goes_on else pytest.raises(OSError):
            console.print("a")
            console.print("b")
        assert console.quiet is goes_on


def _outlive(name):
    """Print on a terminal until that fails, and end with 130."""
    os.setsid()
    terminal = os.open(name, os.O_RDWR)
    os.dup2(terminal, 1)
    os.close(terminal)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
    console = make_console()
    while not console.quiet:
        console.print("on it")
    console.print("after it")
    sys.exit(130)


def test_a_closed_terminal_changes_no_exit_code():
    ours, theirs = pty.openpty()
    child = Child(_outlive, os.ttyname(theirs))
    os.read(ours, 5)
    os.close(theirs)
    os.close(ours)
    assert child.finish()[0] == 130

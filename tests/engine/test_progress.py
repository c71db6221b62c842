"""The displays: what a user sees of a running grid, on a terminal and in a log."""

import io
import os
import pty

import pytest
from rich.console import Console

from cakdbench.engine.progress import LiveProgress, PlainProgress, duration, group_summary, progress_on
from cakdbench.records import Epoch
from cakdbench.train.events import GroupRow, GroupView, LaneView, NoEvents

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


class Clock:
    """Seconds that pass when told."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def make_view(**changes):
    lanes = [LaneView("scratch"), LaneView("kd"), LaneView("fbt:no_infonce")]
    values = dict(title="swin_t>resnet18@cifar100", recipe="demo", seed=3, epochs=8, steps_per_epoch=50, lanes=lanes)
    return GroupView(**(values | changes))


def line(epoch=0, **changes):
    values = dict(epoch=epoch, lr=0.1, losses={"label": 1.25, "kd": 0.5}, train_top1=61.5, top1=70.25)
    return Epoch(**(values | changes))


def terminal(width=60):
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=24, color_system=None)


def log(width=60):
    return Console(file=io.StringIO(), force_terminal=False, width=width)


def last_frame(console):
    """The lines of the last drawing of the live area."""
    return console.file.getvalue().split("\x1b[2K")[-1].splitlines()


class TestLive:
    def test_shows_grid_group_and_lanes(self):
        console, clock, view = terminal(100), Clock(), make_view(step=120)
        view.lanes[1] = LaneView("kd", state="failed", loss=2.5, top1=71.25, images_per_second=1234.4)
        with LiveProgress(console, clock) as events:
            events.group(view)
            events.grid(5, 1, 12)
            frame = "\n".join(last_frame(console))
        assert "5/12 done, 1 failed" in frame
        assert "swin_t>resnet18@cifar100, demo, seed 3" in frame
        assert "epoch 3/8, step 20/50, ETA" in frame
        (kd,) = [row for row in frame.splitlines() if row.startswith("kd")]
        assert kd.split() == ["kd", "failed", "2.5000", "71.25", "1,234"]
        (scratch,) = [row for row in frame.splitlines() if row.startswith("scratch")]
        assert scratch.split() == ["scratch", "running", "-", "-", "-"]

    @pytest.mark.parametrize("width", [60, 80, 160])
    def test_fits_the_width_and_cuts_names_rather_than_numbers(self, width):
        console, clock = terminal(width), Clock()
        long = "a_very_long_method_name:with_a_very_long_variant_name_behind_it"
        lanes = [LaneView(long, loss=2.5, top1=71.25, images_per_second=123456.0)]
        with LiveProgress(console, clock) as events:
            events.group(make_view(title=f"timm:{'x' * 90}>resnet18@cifar100", lanes=lanes, step=399))
            events.grid(1000, 10, 12345)
            frame = last_frame(console)
        assert max(map(len, frame)) <= width
        assert len(frame) == 5
        assert frame[-1].split()[1:] == ["running", "2.5000", "71.25", "123,456"]
        assert "epoch 8/8, step 49/50" in frame[2] and "1000/12345 done, 10 failed" in frame[0]

    def test_ticks_draw_a_few_times_a_second_however_many_they_are(self):
        console, clock, view = terminal(), Clock(), make_view()
        with LiveProgress(console, clock) as events:
            events.group(view)
            before = console.file.getvalue().count("ETA")
            for _ in range(2000):
                clock.now += 0.001
                view.step = min(view.step + 1, 400)
                events.tick(view)
                events.epoch(view, "kd", line())
            frames = console.file.getvalue().count("ETA") - before
        assert 6 <= frames <= 16

    def test_sentences_stay_above_the_live_area_word_for_word(self):
        console, clock = terminal(), Clock()
        with LiveProgress(console, clock) as events:
            events.group(make_view())
            events.say("kd failed: loss [bold]'kd'[/bold] is nan at step 70 of [kd]")
            assert last_frame(console)[-1].startswith("fbt:no_infonce")
        text = " ".join(console.file.getvalue().split())
        assert "kd failed: loss [bold]'kd'[/bold] is nan at step 70 of [kd]" in text

    def test_a_finished_group_leaves_one_line(self):
        console, clock, first = terminal(160), Clock(), make_view(step=400)
        for lane, top1 in zip(first.lanes, (70.5, 71.25, 72.0), strict=True):
            lane.top1 = top1
        first.lanes[2].state = "failed"
        with LiveProgress(console, clock) as events:
            events.group(first)
            events.group(make_view(seed=4))
            wanted = "end: swin_t>resnet18@cifar100, demo, seed 3: scratch 70.50, kd 71.25, fbt:no_infonce failed"
            assert console.file.getvalue().count(wanted) == 1

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_an_exception_passes_and_the_terminal_is_restored(self, error):
        console = terminal()
        with pytest.raises(error), LiveProgress(console, Clock()) as events:
            events.group(make_view(step=60))
            raise error
        written = console.file.getvalue()
        assert written.rindex(SHOW_CURSOR) > written.rindex(HIDE_CURSOR)
        assert "stopped at epoch 2/8" in written.split(SHOW_CURSOR)[-1]
        console.print("later")
        assert console.file.getvalue().endswith("later\n")

    def test_empty_grid_and_group_before_its_first_step(self):
        console = terminal()
        with LiveProgress(console, Clock()) as events:
            events.grid(0, 0, 0)
            events.group(make_view())
            assert "epoch 1/8, step 0/50, ETA -" in "\n".join(last_frame(console))


class TestPlain:
    def test_a_line_for_the_group_and_one_for_each_lane_and_epoch(self):
        console, view = log(), make_view()
        with PlainProgress(console, Clock()) as events:
            events.group(view)
            events.epoch(view, "kd", line(epoch=1))
            events.epoch(view, "fbt:no_infonce", line(epoch=1, top1=None, ema_top1=70.5))
        assert console.file.getvalue().splitlines() == [
            "start: swin_t>resnet18@cifar100, demo, seed 3: scratch, kd, fbt:no_infonce",
            "  kd: epoch 2/8: label 1.2500, kd 0.5000; train 61.50, test 70.25",
            "  fbt:no_infonce: epoch 2/8: label 1.2500, kd 0.5000; train 61.50, test -, test (EMA) 70.50",
            "stopped at epoch 1/8: swin_t>resnet18@cifar100, demo, seed 3: scratch, kd, fbt:no_infonce",
        ]

    def test_progress_comes_every_fifteen_seconds(self):
        console, clock, view = log(), Clock(), make_view()
        with PlainProgress(console, clock) as events:
            events.group(view)
            for _ in range(400):
                clock.now += 0.1
                view.step += 1
                events.tick(view)
        progress = [row for row in console.file.getvalue().splitlines() if row.startswith("  epoch")]
        assert len(progress) == 2
        assert progress[0].startswith("  epoch 4/8, step 0/50, ETA ")

    def test_the_grid_is_named_when_it_changes(self):
        console = log()
        with PlainProgress(console, Clock()) as events:
            for done, failed in ((1, 0), (1, 0), (2, 1)):
                events.grid(done, failed, 4)
        assert console.file.getvalue().splitlines() == ["runs: 1/4 done", "runs: 2/4 done, 1 failed"]

    def test_long_lines_are_left_whole_and_brackets_are_text(self):
        console, text = log(width=40), "damaged [record] " * 20 + "[/red]"
        PlainProgress(console, Clock()).say(text)
        assert console.file.getvalue() == text + "\n"


class TestChoice:
    def test_a_file_gets_plain_lines_even_if_colours_are_forced(self):
        for console in (log(), terminal()):
            with progress_on(console) as events:
                assert isinstance(events, PlainProgress)

    @pytest.mark.parametrize(("term", "kind"), [("xterm", LiveProgress), ("dumb", PlainProgress)])
    def test_a_terminal_gets_the_live_area_unless_it_is_dumb(self, term, kind):
        ours, theirs = pty.openpty()
        with os.fdopen(ours, "rb"), os.fdopen(theirs, "w") as file:
            console = Console(file=file, _environ={"TERM": term})
            with progress_on(console) as events:
                assert isinstance(events, kind)

    def test_all_watchers_take_the_same_calls(self):
        view = make_view()
        for events in (NoEvents(), LiveProgress(terminal(), Clock()), PlainProgress(log(), Clock())):
            events.grid(0, 0, 1)
            events.group(view)
            events.tick(view)
            events.epoch(view, "kd", line())
            events.groups([GroupRow("a > b @ c", 3, "step 5/9")])
            events.say("text")


class TestOtherMachines:
    rows = [GroupRow("swin_t > resnet18 @ cifar100, demo, seed 0", 11, "step 50/400, 1,234 images/s, 2:00 left")]

    def test_a_terminal_shows_all_groups_at_once(self):
        console = terminal(100)
        with LiveProgress(console, Clock()) as events:
            events.groups([*self.rows, GroupRow("swin_t > resnet18 @ cifar100, demo, seed 1", 11, "begins")])
            frame = last_frame(console)
        assert [text for text in frame if "seed 0" in text and "1,234 images/s" in text and " 11 " in text]
        assert [text for text in frame if "seed 1" in text and "begins" in text]

    def test_a_log_has_a_line_a_group_now_and_then(self):
        console, clock = log(100), Clock()
        with PlainProgress(console, clock) as events:
            for _ in range(5):
                events.groups(self.rows)
                clock.now += 5
        assert console.file.getvalue().count("seed 0: 11 lanes, step 50/400") == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59, "59 s"), (59.6, "1:00"), (725, "12:05"), (3599.7, "1:00:00"), (200000, "55:33:20")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_summary_names_how_far_a_stopped_group_came():
    view = make_view(step=399)
    view.lanes[0].top1 = 70.0
    assert group_summary(view).startswith("stopped at epoch 8/8: ")
    assert group_summary(view).endswith("scratch 70.00, kd, fbt:no_infonce")

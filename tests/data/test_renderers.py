"""Processes that render images: what is seen of their death, and that they do not outlive whom they render for."""

import multiprocessing
import os
import signal
import time

import psutil
import pytest
import torch
from torch.utils.data import Dataset

from cakdbench.data.renderers import RendererLost, is_lost_renderer
from cakdbench.data.stream import SampleStream, _loader
from tests.cli_lab import Child, renderers


def lose_a_renderer(data, recipe) -> None:
    """Kill one, and print whether what is raised tells of it."""
    epoch = SampleStream(data, recipe, 0, workers=1).epoch(0)
    next(epoch)
    (renderer,) = renderers(os.getpid())
    renderer.kill()
    try:
        list(epoch)
        time.sleep(60)
    except (RendererLost, RuntimeError) as error:  # torch's handler may be first, wherever it strikes
        print(is_lost_renderer(error), flush=True)


def test_a_killed_renderer_is_told_by_what_it_is(noise, recipe):
    child = Child(lose_a_renderer, noise, recipe(), daemon=False)  # torch's handler may strike more than once
    assert child.output.readline().strip() == "True"
    child.finish()


class Broken(Dataset):
    def __getitem__(self, name):
        raise OSError("the disk fails")


def test_an_error_that_a_renderer_raises_is_no_death():
    from cakdbench.data.renderers import items

    with pytest.raises(OSError, match="the disk fails") as told:
        list(items(_loader(Broken(), [0], 1)))
    assert not is_lost_renderer(told.value)


class Slow(Dataset):
    def __getitem__(self, name):
        time.sleep(0.05)
        return torch.tensor(os.getpid())


def render(method: str) -> None:
    multiprocessing.set_start_method(method, force=True)
    for number in _loader(Slow(), range(10_000), 1):
        print(int(number), flush=True)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_renderers_end_with_a_process_that_is_killed(method):
    child = Child(render, method, daemon=False)
    renderer = psutil.Process(int(child.output.readline()))
    os.kill(child.process.pid, signal.SIGKILL)
    renderer.wait(120)
    assert child.finish()[0] == -signal.SIGKILL  # nobody holds its output open any more

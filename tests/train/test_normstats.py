"""Batch-norm statistics do not depend on how a step's local batches are shared out."""

import copy

import torch
from torch import nn

from cakdbench.train.normstats import NormStats


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2))


def test_a_step_of_several_local_batches_keeps_the_mean_of_what_each_alone_would_leave():
    batches = torch.randn(3, 5, 3, 8, 8)
    alone = []
    for batch in batches:
        single = network()
        single(batch)
        alone.append(single)
    together = network()
    stats = NormStats(together, batches=3, processes=1)
    stats.start_step()
    for batch in batches:
        together(batch)
        stats.end_batch()
    stats.end_step()
    for place in (1, 4):
        for name in ("running_mean", "running_var"):
            wanted = torch.stack([getattr(net[place], name) for net in alone]).mean(0)
            assert torch.allclose(getattr(together[place], name), wanted, atol=1e-7)
        assert together[place].num_batches_tracked == 1


def test_one_local_batch_on_one_process_is_left_to_batch_norm_itself():
    plain = network()
    watched = copy.deepcopy(plain)
    stats = NormStats(watched, batches=1, processes=1)
    batch = torch.randn(5, 3, 8, 8)
    plain(batch)
    stats.start_step()
    watched(batch)
    stats.end_batch()
    stats.end_step()
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), watched.buffers(), strict=True))

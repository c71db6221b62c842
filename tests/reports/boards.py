"""Boards with chosen truths, for the tests of plots, formats and the HTML page."""

import zlib

import numpy as np

from cakdbench.recipes import load_recipe
from cakdbench.records import Epoch
from cakdbench.reports.blocks import board_results
from cakdbench.reports.sections import board_of
from tests.reports.synthetic import TestRules, column, printed, record

A, B, M = "swin_t>resnet18@cifar100", "vit_s>mobilenetv2@cifar100", "swin_t>mlp_mini@cifar100"
NUMBERS = load_recipe("ofa_cifar_cnn").numbers()
ACCURACIES = {"scratch": 70.0, "kd": 72.0, "ofa": 80.0, "fbt": 80.1}


def epochs(*top1):
    return [Epoch(epoch=n, lr=0.1, losses={"label": 1.0}, train_top1=50.0, top1=each) for n, each in enumerate(top1)]


def runs(pairs=(A, B), seeds=(0, 1, 2), accuracies=ACCURACIES, **changes):
    """Runs of three epochs; a method's accuracy, plus a tenth of the seed, plus the place of the pair."""
    found = []
    for place, pair in enumerate(pairs):
        for label, base in accuracies.items():
            for seed in seeds if not (label == "fbt" and "mlp" in pair) else ():
                top1 = base + place + 0.1 * seed
                made = record(label, pair, seed, top1, recipe=NUMBERS, **changes)
                found.append(made.model_copy(update={"history": epochs(top1 - 20, top1 - 5, top1)}))
    return found


def answers(made):
    """The first images are classified right, but for a twentieth that depends on the run."""
    hits = np.arange(2000) < made.result.top1 * 20
    chance = np.random.default_rng(zlib.crc32(made.key.encode()))
    hits[chance.permutation(2000)[:100]] ^= True
    return hits


def results(records=None, pairs=(A, B), prints=None, rules=None, name="demo", title="Demo", tests=lambda made: None):
    """The results of a board; `tests` gives which images a record has right."""
    columns = [column(pair, numbers=NUMBERS) for pair in pairs]
    rules, records = rules or TestRules(prints), runs(pairs) if records is None else records
    by_key = {made.key: made for made in records}
    return board_results(name, title, columns, records, rules, lambda key: tests(by_key[key]))


def board(*args, **options):
    """The page of the same."""
    return board_of(results(*args, **options))


def prints(pair=A):
    """What papers print of a pair."""
    return {
        pair: {
            "teacher": (printed("89.26", "teacher", pair=pair),),
            "ofa": (printed("80.54", "ofa", pair=pair), printed("80.5", "ofa", "fofa", pair=pair)),
            "unknown": (printed("77.77", "unknown", pair=pair),),
        }
    }

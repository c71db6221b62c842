"""The classes of data: their names, and the numbers that stand for them."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cakdbench.data.splits import ImageDataset, Split
from cakdbench.utils.errors import UsageError

SHOWN = 3
_WHOLE = re.compile(r"(-?\d+)(?:\.0+)?", re.ASCII)
"""A number as a table of labels has it; 3.0 where a missing value has made the column one of floats."""


def class_order(names: Sequence[str], given: Sequence[str], whose: str) -> list[int]:
    """Return, for each of `names`, its position in `given`.

    Raises:
        UsageError: they are not the same names; says which are on one side only, and `whose` the given ones are.
    """
    if twice := [name for name in dict.fromkeys(given) if list(given).count(name) > 1]:
        raise UsageError(f"the classes of {whose} have names twice: {some(twice)}")
    missing, others = (_without(first, second) for first, second in ((names, given), (given, names)))
    if missing or others:
        told = [f"lacks {some(missing)}"] * bool(missing) + [f"has {some(others)}, which no image has"] * bool(others)
        raise UsageError(f"the classes of {whose} are not those of the data: it {' and '.join(told)}")
    places = {name: place for place, name in enumerate(given)}
    return [places[name] for name in names]


def in_order(data: ImageDataset, classes: Sequence[str], whose: str) -> ImageDataset:
    """Return a dataset whose classes are numbered in the order of `classes`.

    Raises:
        UsageError: those are not its classes.
    """
    places = np.array(class_order(data.class_names, classes, whose), np.int64)
    train, test = (Split(places[split.labels], split.image) for split in (data.train, data.test))
    return replace(data, train=train, test=test, class_names=tuple(classes))


def own_fingerprint(data: ImageDataset) -> str:
    """Return a fingerprint that covers, besides the content, the names of the classes and the normalisation."""
    told = repr((data.class_names, tuple(data.mean), tuple(data.std)))
    return hashlib.sha256(f"{data.fingerprint}\0{told}".encode()).hexdigest()


def numbered(
    train: Sequence[str], test: Sequence[str], classes: Sequence[str] | None
) -> tuple[list[str], list[int], list[int]]:
    """Return the classes of labels, and the labels as numbers.

    Labels that are whole numbers are the positions of the classes, unless `classes` holds them as names. Without
    `classes`, names are sorted by code point, as the folders of torchvision's ImageFolder.

    Raises:
        UsageError: a label is none of the classes, or a class has no training image.
    """
    if not (train and test):
        raise UsageError(f"there is no {'test' if train else 'training'} image")
    labels = {*train, *test}
    numbers = {label: int(found[1]) for label in labels if (found := _WHOLE.fullmatch(label))}
    if negative := sorted(label for label, number in numbers.items() if number < 0):
        raise UsageError(f"there are images without a label ({some(negative)}): leave them out")
    if len(numbers) == len(labels) and not labels & set(classes or ()):
        count = min(max(numbers.values()), len(numbers)) + 1  # of numbers that are far apart the first gap will do
        names = list(classes or map(str, range(count)))
        keys = [str(position) for position in range(len(names))]
        train, test = ([str(numbers[label]) for label in half] for half in (train, test))
    else:
        keys = names = list(classes or sorted(set(train)))
    if (empty := _without(keys, train)) and not classes:
        raise UsageError(
            f"no training image of class {some(empty)}: labels that are numbers count the classes from 0; "
            "name the classes of others in their order with classes = [...]"
        )
    if unknown := sorted({*train, *test} - set(keys)):
        known = "among the classes of the entry" if classes else "in training"
        raise UsageError(f"labels that are not {known}: {some(unknown)}")
    places = {key: place for place, key in enumerate(keys)}
    return names, [places[label] for label in train], [places[label] for label in test]


def held_out(labels: Sequence[str], fraction: float) -> tuple[list[int], list[int]]:
    """Return the positions of training and of test images: of every class the same fraction, the same at every call."""
    test: list[int] = []
    every = np.asarray(labels)
    for label in sorted(set(labels)):
        places = np.flatnonzero(every == label)
        count = max(1, round(fraction * len(places)))
        if count == len(places):
            raise UsageError(f"class {label} has {len(places)} images, too few to hold some of them out for testing")
        test += np.random.RandomState(0).permutation(places)[:count].tolist()
    return sorted(set(range(len(labels))) - set(test)), sorted(test)


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    known = set(others)
    return [name for name in names if name not in known]


def some(names: Sequence[str]) -> str:
    """Return the first names and the number of the others."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")

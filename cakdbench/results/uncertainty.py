"""The certainty that a test set of n images gives; all accuracies and differences in percentage points."""

import math

NORMAL_95 = 1.959964
"""97.5 % quantile of the normal distribution: half the width of a two-sided 95 % interval, in sds."""


def resolution(images: int) -> float:
    """Return what one image is worth: no accuracy changes by less."""
    return 100 / images


def standard_error(top1: float, images: int) -> float:
    """Return the binomial standard error of one measured accuracy."""
    share = top1 / 100
    return 100 * math.sqrt(share * (1 - share) / images)


def indistinguishable(top1: float, images: int) -> float:
    """Return the difference of two accuracies near `top1` that can be chance in the choice of test images (95 %).

    Takes the two for independent. Two models on the same images mostly fail on the same ones, which makes the
    true bound smaller; so this one errs on the safe side. Chance in training (the seed) comes on top.
    """
    return max(resolution(images), NORMAL_95 * math.sqrt(2) * standard_error(top1, images))

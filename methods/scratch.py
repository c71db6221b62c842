"""The student alone: the reference every gain is measured from.

    L = CE(z_s, y)

CE is the recipe's label loss, with its smoothing, mixup and cutmix. No teacher is built; the code of OFA builds and
runs one and throws its logits away.
"""

from cakdbench.method import Batch, Method, Step
from cakdbench.registry import register


@register("scratch", title="From scratch", paper="labels only", url="", kind="labels")
class Scratch(Method):
    """Train the student on the labels; no teacher is built."""

    needs = frozenset()

    def distill_step(self, batch: Batch) -> Step:
        logits = self.student(batch.images).logits
        return Step(logits, {"label": batch.label_loss(logits)})

"""The bench on which methods are counted: a pair's models without weights, and batches of images without content."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from cakdbench.costs.counting import Meter
from cakdbench.costs.legacy import ModuleCost, module_cost
from cakdbench.data.datasets import dataset_facts
from cakdbench.grid.suites import PairSpec
from cakdbench.method import Batch, forward_options
from cakdbench.models.ensemble import join
from cakdbench.models.staged import Output, StagedModel
from cakdbench.recipes import load_recipe
from cakdbench.train.trainer import label_criterion


class CountingBench:
    """An untrained pair in eval mode, and batches as its recipe and dataset make them.

    Args:
        classes: of both classifiers; None: the dataset's.
        split: where networks of equal blocks are cut; None: as the recipe says.
        device: `meta`, or `cpu` for methods that look at what tensors contain.
        data_dir: where the datasets lie; only for `timm:` datasets.

    Raises:
        UsageError: a name is unknown, or a model does not run at the recipe's image size.
    """

    def __init__(
        self,
        spec: PairSpec,
        classes: int | None = None,
        split: str | None = None,
        device: str = "meta",
        data_dir: Path | None = None,
    ):
        facts = dataset_facts(spec.pair.dataset, data_dir)
        self.spec = spec
        self.pair = spec.pair
        self.device = torch.device(device)
        self.recipe = load_recipe(spec.recipe)
        self.classes = classes or facts.num_classes
        self.samples = facts.n_train
        self.split = split or self.recipe.split
        self.student = self._model(spec.pair.student)
        self.teacher = join(map(self._model, spec.pair.teacher_models)).requires_grad_(False)
        self.teach = functools.cache(self._teach)
        self._data_dir = data_dir

    @functools.cached_property
    def on_cpu(self) -> CountingBench:
        """The same pair with random weights and black images."""
        return CountingBench(self.spec, self.classes, self.split, "cpu", self._data_dir)

    @functools.cached_property
    def labels(self) -> torch.Tensor:
        """`(N,)` on the CPU, as many as the dataset has training images."""
        return torch.arange(self.samples, device="cpu") % self.classes

    @functools.cached_property
    def student_cost(self) -> ModuleCost:
        return module_cost(self.student, self._images(1))

    @functools.cached_property
    def teacher_cost(self) -> ModuleCost:
        return module_cost(self.teacher, self._images(1))

    def batch(self, size: int, number: int, taught: bool) -> Batch:
        """Return `size` images as step and epoch `number`.

        Args:
            taught: with the teacher's outputs, as they come to a method from the pass that all methods share.
        """
        index = torch.arange(size, device=self.device)
        teacher = self.teach(size) if taught else None
        criterion = label_criterion(self.recipe)
        return Batch(self._images(size), index % self.classes, index, number, number, criterion, teacher)

    def _model(self, name: str) -> StagedModel:
        with Meter(), self.device:
            return StagedModel(name, self.classes, self.recipe.image_size, split=self.split).eval()

    def _images(self, size: int) -> torch.Tensor:
        return torch.zeros(size, 3, self.recipe.image_size, self.recipe.image_size, device=self.device)

    def _teach(self, size: int) -> Output:
        with Meter(), torch.no_grad():
            return self.teacher(self._images(size), **forward_options(self.teacher.info.parts))

"""Similarity of two networks' features, layer by layer, in memory that does not grow with the images.

Linear CKA (Kornblith et al., ICML 2019, eq. 5 with linear kernels): `||Y'X||^2 / (||X'X|| ||Y'Y||)` in Frobenius norms,
of features centred over the images. It needs sums of products alone, so that batches add up to its very definition.
"""

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor

from cakdbench.method import Method
from cakdbench.models.info import NoStages
from cakdbench.models.staged import StagedModel
from cakdbench.utils.errors import UsageError

MEASURES = ("cka", "map")
RIDGE = 1e-4
"""Of the fitted map, as a share of the mean variance of a feature: keeps it defined with few images."""


def layer_features(model: StagedModel, images: Tensor) -> dict[str, Tensor]:
    """Return each stage's feature averaged over its positions `(B, C)`, and the final feature `(B, width)`.

    A network without stages has the final feature alone; one without a known last layer its logits in its place.
    """
    staged = not isinstance(model.layouts, NoStages)
    output = model(images, stages=staged)
    stages = zip(model.layouts, output.stages) if staged else ()
    layers = {f"stage {n}": layout.to_map(x).mean((2, 3)) for n, (layout, x) in enumerate(stages, 1)}
    final = output.logits if output.pooled is None else output.pooled
    return {name: x.double() for name, x in (layers | {"final": final}).items()}


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Return the linear CKA of features `(N, D)` and `(N, E)` of the same images, 0 to 1; nan if one is constant."""
    products = Products()
    products.add(first.double(), second.double())
    return products.cka()


@dataclass
class Products:
    """Sums over images of two features and of the products of their entries, around the first batch's mean."""

    images: int = 0
    shift: tuple[Tensor, Tensor] | None = None
    sums: list[Tensor] = field(default_factory=list)

    def add(self, first: Tensor, second: Tensor) -> None:
        """Take a batch in: `(B, D)` and `(B, E)` float64."""
        if self.shift is None:
            self.shift = first.mean(0), second.mean(0)
        x, y = first - self.shift[0], second - self.shift[1]
        terms = [x.sum(0), y.sum(0), x.T @ x, x.T @ y, y.T @ y]
        self.sums = terms if not self.sums else [total + term for total, term in zip(self.sums, terms)]
        self.images += len(first)

    def covariances(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return those of the first with itself, the first with the second, the second with itself."""
        x, y, xx, xy, yy = self.sums
        n = self.images
        return (xx - x.outer(x) / n) / n, (xy - x.outer(y) / n) / n, (yy - y.outer(y) / n) / n

    def means(self) -> tuple[Tensor, Tensor]:
        assert self.shift is not None, "no batch was added"
        return self.shift[0] + self.sums[0] / self.images, self.shift[1] + self.sums[1] / self.images

    def cka(self) -> float:
        xx, xy, yy = self.covariances()
        scale = xx.norm() * yy.norm()
        return float(xy.square().sum() / scale) if scale > 0 else float("nan")

    def linear_map(self) -> Tensor:
        """Return the map `(D, E)` that takes the first feature to the second with least squares, both centred."""
        xx, xy, _ = self.covariances()
        ridge = RIDGE * xx.diagonal().mean().clamp(min=torch.finfo(xx.dtype).tiny)
        return torch.linalg.solve(xx + ridge * torch.eye(len(xx), dtype=xx.dtype), xy)


@torch.no_grad()
def similarity(
    first: StagedModel, second: StagedModel, batches: Callable[[], Iterable[Tensor]], measure: str = "cka"
) -> pd.DataFrame:
    """Return how similar the layers of two networks are: a row a layer of the first, a column a layer of the second.

    Args:
        first, second: in eval mode, on the device of the images.
        batches: gives images `(B, 3, S, S)` batch by batch, the same whenever it is called.
        measure: "cka"; or "map": a linear map from the first's layer to the second's is fitted on the even batches,
            and the value is the mean cosine on the odd ones, both centred (-1 to 1).

    Raises:
        UsageError: there is no such measure, or "map" has fewer than two batches.
    """
    if measure not in MEASURES:
        raise UsageError(f"unknown measure {measure!r}; known: {', '.join(MEASURES)}")
    products: dict[tuple[str, str], Products] = {}
    for number, pair in enumerate(_layer_pairs(first, second, batches())):
        if measure == "cka" or number % 2 == 0:
            for names, (x, y) in pair.items():
                products.setdefault(names, Products()).add(x, y)
    if measure == "cka":
        _tell_of_few_images(products.values())
        return _table({names: total.cka() for names, total in products.items()})
    return _table(_cosines(products, _layer_pairs(first, second, batches())))


def _tell_of_few_images(products: Collection[Products]) -> None:
    widths = [len(total) for each in products for total in each.sums[:2]]
    images = min(each.images for each in products)
    if images <= max(widths):
        told = f"CKA of {images} images and up to {max(widths)} features comes out too high: take more images"
        warnings.warn(told, stacklevel=3)


@torch.no_grad()
def projected_similarity(method: Method, batches: Callable[[], Iterable[Tensor]]) -> pd.DataFrame:
    """Return how similar the student's features, as a method projects them, are to the teacher's.

    A row a space that the method brings both into (see `Method.projected`). Columns: cosine, the mean over images and
    places, both sides centred (-1 to 1); cka, linear CKA with images and places as the examples.

    Args:
        method: in eval mode, on the device of the images.
        batches: as for `similarity`.

    Raises:
        UsageError: the method projects nothing.
    """
    products: dict[str, Products] = {}
    for images in batches():
        for name, pair in method.projected(images).items():
            products.setdefault(name, Products()).add(*(x.double() for x in pair))
    if not products:
        raise UsageError(f"{method.id} brings no features of the student into a space of the teacher's")
    cosines: dict[str, list[Tensor]] = {name: [] for name in products}
    for images in batches():
        for name, pair in method.projected(images).items():
            x, y = (side - mean for side, mean in zip(pair, products[name].means()))
            cosines[name].append(torch.cosine_similarity(x, y, dim=1))
    rows = {name: (float(torch.cat(cosines[name]).mean()), total.cka()) for name, total in products.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["cosine", "cka"]).rename_axis("space")


LayerPairs = dict[tuple[str, str], tuple[Tensor, Tensor]]


def _layer_pairs(first: StagedModel, second: StagedModel, batches: Iterable[Tensor]) -> Iterator[LayerPairs]:
    for images in batches:
        ours, theirs = layer_features(first, images), layer_features(second, images)
        yield {(a, b): (x, y) for a, x in ours.items() for b, y in theirs.items()}


def _cosines(products: dict[tuple[str, str], Products], batches: Iterator[LayerPairs]) -> dict[tuple[str, str], float]:
    maps = {names: (total.linear_map(), *total.means()) for names, total in products.items()}
    cosines: dict[tuple[str, str], list[Tensor]] = {}
    for number, pair in enumerate(batches):
        for names, (x, y) in pair.items() if number % 2 else ():
            weight, mean_x, mean_y = maps[names]
            cosine = torch.cosine_similarity((x - mean_x) @ weight, y - mean_y, dim=1)
            cosines.setdefault(names, []).append(cosine)
    if not cosines:
        raise UsageError("a fitted map needs images it was not fitted on: give more images than one batch")
    return {names: float(torch.cat(values).mean()) for names, values in cosines.items()}


def _table(values: dict[tuple[str, str], float]) -> pd.DataFrame:
    return pd.Series(values).unstack(sort=False).rename_axis(index="first", columns="second")

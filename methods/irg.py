"""IRG: match logits, distances between samples, and how features change between stages (Liu et al., 2019).

    L = CE(z_s, y) + vertex_weight * mean (z_s - z_t)^2 + edge_weight * mean_layers mean_ij (E_s - E_t)^2
        + transform_weight * mean_b (R_s - R_t)^2
    E_ij = |x_i - x_j|^2 / max_ij      of one layer, over the batch
    R_b = |a_b - c_b|^2 / max_b        of one network's features a and c of two stages

Weights are KD-Zoo's, and so are the layers: edges of the final feature and of the last two stages, the transformation
between these two. Stage features enter edges flattened, without prefix tokens. For the transformation they are
averaged over positions; where the two differ in width, neighbouring channels of the wider one are averaged, as KD-Zoo
does for a ratio of 2. Distances are those within a local batch.

Paper and code: the authors' Caffe code weighs with 0.005, of half the sum of squares (edges: over B) where KD-Zoo
takes the mean; it trains edges and transformation in separate recipes, both without the vertex term. It holds the
maximum constant in the backward pass, as is done here, and differentiates the distances for one of the two samples
only, which is not; KD-Zoo takes the transformation between maps instead of averaged features. With a constant maximum
the scale of the features gets a gradient although no scale changes the loss; not so with the variant `free_maximum`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from cakdbench.method import Batch, Method, Step, tunable
from cakdbench.models.staged import Output, StagedModel
from cakdbench.registry import register
from cakdbench.utils.precision import force_fp32

EPS = 1e-12  # least maximum that distances are divided by


@force_fp32
def irg_vertex_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of the logits `(B, C)`, the paper's vertices in KD-Zoo's normalisation."""
    return F.mse_loss(student, teacher)


@force_fp32
def irg_edge_loss(student: Tensor, teacher: Tensor, constant_maximum: bool = True) -> Tensor:
    """Return the mean squared difference of the edges, in KD-Zoo's normalisation.

    Args:
        student: `(B, D)`.
        teacher: `(B, E)`.
        constant_maximum: let no gradient through the maximum.
    """
    return F.mse_loss(_edges(student, constant_maximum), _edges(teacher))


@force_fp32
def irg_transform_loss(
    student_a: Tensor, student_b: Tensor, teacher_a: Tensor, teacher_b: Tensor, constant_maximum: bool = True
) -> Tensor:
    """Return the mean squared difference of the transformations, in KD-Zoo's normalisation.

    Args:
        student_a: `(B, D)` of one stage.
        student_b: `(B, E)` of another.
        teacher_a: likewise, of the teacher.
        constant_maximum: let no gradient through the maximum.
    """
    student = _transformation(student_a, student_b, constant_maximum)
    return F.mse_loss(student, _transformation(teacher_a, teacher_b))


def _edges(x: Tensor, constant_maximum: bool = True) -> Tensor:
    """`(B, B)` squared distances over their maximum."""
    x = x - x.detach().mean(0)  # distances stay as they are, and cancel less
    length = x.square().sum(1)
    distance = (length[:, None] + length - 2 * x @ x.T).clamp(min=0)
    distance = distance * (1 - torch.eye(len(x), dtype=x.dtype, device=x.device))
    return _over_maximum(distance, constant_maximum)


def _transformation(a: Tensor, b: Tensor, constant_maximum: bool = True) -> Tensor:
    """`(B,)` squared distances over their maximum."""
    width = min(a.shape[1], b.shape[1])
    distance = (_narrowed(a, width) - _narrowed(b, width)).square().sum(1)
    return _over_maximum(distance, constant_maximum)


def _narrowed(x: Tensor, width: int) -> Tensor:
    return x if x.shape[1] == width else F.adaptive_avg_pool1d(x, width)


def _over_maximum(distance: Tensor, constant: bool) -> Tensor:
    maximum = distance.max().clamp(min=EPS)
    return distance / (maximum.detach() if constant else maximum)


@register(
    "irg",
    title="IRG",
    paper="Liu et al., CVPR 2019",
    url="https://openaccess.thecvf.com/content_CVPR_2019/html/"
    "Liu_Knowledge_Distillation_via_Instance_Relationship_Graph_CVPR_2019_paper.html",
    year=2019,
    kind="relations",
)
class IRG(Method):
    """Labels, logits as vertices, distances of samples as edges, and the transformation between two stages."""

    needs = frozenset({"logits", "pooled", "stages"})

    @dataclass(frozen=True)
    class Config:
        """Defaults of KD-Zoo; a weight of 0 leaves its term out.

        Attributes:
            vertex_weight: of the logits' term.
            edge_weight: of the mean over the layers' edges.
            transform_weight: of the transformation.
            edge_stages: stages whose edges count beside those of the final feature.
            transform_stages: the two stages whose features are compared.
            constant_maximum: let no gradient through the maxima, as the authors' code.
        """

        vertex_weight: float = field(default=0.1, metadata=tunable(0.0001, 1, log=True))
        edge_weight: float = field(default=5.0, metadata=tunable(0.005, 50, log=True))
        transform_weight: float = field(default=5.0, metadata=tunable(0.005, 50, log=True))
        edge_stages: tuple[int, ...] = (3, 4)
        transform_stages: tuple[int, int] = (3, 4)
        constant_maximum: bool = field(default=True, metadata=tunable(choices=(True, False)))

        def __post_init__(self):
            for name in ("edge_stages", "transform_stages"):
                stages = getattr(self, name)
                if not set(stages) <= {1, 2, 3, 4} or len(set(stages)) < len(stages):
                    raise ValueError(f"{name} must be some of 1, 2, 3, 4, each once, not {stages}")
            if len(self.transform_stages) != 2:
                raise ValueError(f"transform_stages must be two stages, not {self.transform_stages}")

    variants = {
        "vertices_only": {"edge_weight": 0.0, "transform_weight": 0.0},
        "edges_only": {"vertex_weight": 0.0, "transform_weight": 0.0},
        "transform_only": {"vertex_weight": 0.0, "edge_weight": 0.0},
        "no_vertices": {"vertex_weight": 0.0},
        "no_edges": {"edge_weight": 0.0},
        "no_transform": {"transform_weight": 0.0},
        "edges_pooled": {"edge_stages": ()},
        "free_maximum": {"constant_maximum": False},
    }

    def build(self) -> None:
        """Make no modules; what the weights leave out is not needed of the teacher."""
        config = self.config
        parts = {"logits": config.vertex_weight, "pooled": config.edge_weight}
        parts["stages"] = config.transform_weight or (config.edge_weight and config.edge_stages)
        self.needs = frozenset(part for part, used in parts.items() if used)

    def distill_step(self, batch: Batch) -> Step:
        config, student = self.config, self.student(batch.images, stages="stages" in self.needs)
        losses = {"label": batch.label_loss(student.logits)}
        if config.vertex_weight:
            losses["irg_vertex"] = config.vertex_weight * irg_vertex_loss(student.logits, batch.teacher.logits)
        if config.edge_weight:
            layers = zip(self._layers(self.student, student), self._layers(self.teacher, batch.teacher))
            edges = torch.stack([irg_edge_loss(*pair, config.constant_maximum) for pair in layers])
            losses["irg_edge"] = config.edge_weight * edges.mean()
        if config.transform_weight:
            means = (*self._means(self.student, student), *self._means(self.teacher, batch.teacher))
            losses["irg_transform"] = config.transform_weight * irg_transform_loss(*means, config.constant_maximum)
        return Step(student.logits, losses)

    def _layers(self, model: StagedModel, output: Output) -> Iterator[Tensor]:
        """Return `(B, D)` of each layer with edges: the final feature, and stages without their prefix tokens."""
        yield output.pooled
        for stage in self.config.edge_stages:
            yield model.layouts[stage - 1].to_map(output.stages[stage - 1]).flatten(1)

    def _means(self, model: StagedModel, output: Output) -> Iterator[Tensor]:
        """`(B, C)` of the two stages, averaged over positions."""
        for stage in self.config.transform_stages:
            yield model.layouts[stage - 1].to_map(output.stages[stage - 1]).mean((2, 3))

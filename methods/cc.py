"""CC: match how the samples of a batch correlate in an embedding of the final features (Peng et al., 2019).

    e_s = W_s f_s + b_s,   e_t = W_t f_t + b_t                      both maps are trained
    ofa:    L = CE(z_s, y) + weight * mean_{b < B} sum_k d_bk d_(b+1)k,   d = |e_s - e_t|
    peng:   L = CE(z_s, y) + weight * mean_ij (k(s_i, s_j) - k(t_i, t_j))^2,   s = e_s / |e_s|, t = e_t / |e_t|
            k(x, y) = sum_{p <= order} exp(-2 gamma) (2 gamma)^p / p! (x.y)^p

Form, weight and width of the embedding are those of OFA's code, from which all published heterogeneous results of CC
come. Gamma and order are the paper's; the weight 100 of the variant `peng` is KD-Zoo's, which averages the squared
difference as `peng` does. Correlations are those of a local batch.

Paper and code: the paper matches the kernel matrices of both networks. The code of RepDistiller, which OFA took over
and whose authors name the paper's as its source, multiplies instead the absolute errors of neighbouring samples: that
depends on the order of the batch, and is 0 as soon as every other sample matches. Either form is least where both maps
are constant; the weight decides how fast they get there. KD-Zoo compares the features without an embedding,
torchdistill does not normalise them, weighs with 0.003 and does not square the norm of the difference.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from cakdbench.method import Batch, Method, Step, check_choices, tunable
from cakdbench.registry import register
from cakdbench.utils.precision import force_fp32

EPS = 1e-6  # length below which an embedding counts as this long; bounds the slope of the normalisation


@force_fp32
def cc_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """`mean_{b < B} sum_k d_bk d_(b+1)k` with `d = |e_s - e_t|`, the released code of RepDistiller and OFA.

    Args:
        student_embedding: `(B, D)`.
        teacher_embedding: `(B, D)`.
    """
    error = (student_embedding - teacher_embedding).abs()
    return (error[:-1] * error[1:]).sum() / max(len(error) - 1, 1)


@force_fp32
def cc_peng_loss(student: Tensor, teacher: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    """Return the mean squared difference of the kernel matrices of arXiv:1904.01802, of embeddings brought to length 1.

    Args:
        student: `(B, D)`.
        teacher: `(B, E)`.
        gamma: of the Gaussian kernel, whose Taylor series is cut after `order`.
    """
    return F.mse_loss(_kernel(student, gamma, order), _kernel(teacher, gamma, order))


def _kernel(x: Tensor, gamma: float, order: int) -> Tensor:
    x = F.normalize(x, dim=1, eps=EPS)
    cosine = x @ x.T
    terms = [(2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1)]
    return math.exp(-2 * gamma) * sum(terms)


@register(
    "cc",
    title="CC",
    paper="Peng et al., ICCV 2019",
    url="https://arxiv.org/abs/1904.01802",
    year=2019,
    kind="relations",
)
class CC(Method):
    """Labels, and the correlations of the samples of a batch in a shared embedding."""

    needs = frozenset({"pooled"})

    @dataclass(frozen=True)
    class Config:
        """Defaults of OFA's code.

        Attributes:
            form: `ofa`, the released code, or `peng`, the paper's kernel matrices.
            weight: of the correlation loss; 0 leaves it out. `peng` is on another scale, see its variant.
            dim: width of the embedding.
            gamma: of `peng`'s kernel, the paper's.
            order: of `peng`'s Taylor series, the paper's.
        """

        form: Literal["ofa", "peng"] = "ofa"
        weight: float = field(default=0.02, metadata=tunable(2e-05, 0.2, log=True))
        dim: int = 128
        gamma: float = 0.4
        order: int = 2

        def __post_init__(self):
            check_choices(self)
            if self.dim < 1 or self.order < 1:
                raise ValueError(f"dim and order must be at least 1, not {self.dim} and {self.order}")
            if self.gamma <= 0:
                raise ValueError(f"gamma must be above 0, not {self.gamma}")

    variants = {
        "peng": {"form": "peng", "weight": 100.0},
        "peng_0_003": {"form": "peng", "weight": 0.003},
    }

    def build(self) -> None:
        """Make the two embeddings, if the weight leaves them something to do."""
        if self.config.weight:
            self.embed_student = nn.Linear(self.student.width, self.config.dim)
            self.embed_teacher = nn.Linear(self.teacher.width, self.config.dim)

    def distill_step(self, batch: Batch) -> Step:
        config, student = self.config, self.student(batch.images)
        losses = {"label": batch.label_loss(student.logits)}
        if config.weight:
            embedded = self.embed_student(student.pooled), self.embed_teacher(batch.teacher.pooled)
            kernel = (config.gamma, config.order) if config.form == "peng" else ()
            loss = cc_peng_loss if config.form == "peng" else cc_loss
            losses["cc"] = config.weight * loss(*embedded, *kernel)
        return Step(student.logits, losses)

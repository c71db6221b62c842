"""PCA/GL: map a CNN's features into a transformer's attention and feature space, adversarially (Liu et al., 2022).

    L     = label_weight * CE(z_s, y) + pca_weight * L_PCA + gl_weight * L_GL + adversarial_weight * L_MVG
    L_PCA = mse(A(g(Q_s), g(K_s), g(V_s)), A(Q_t, K_t, V_t)) + mse(V_s V_s' / sqrt(d), V_t V_t' / sqrt(d))
    L_GL  = mse(h'_s, h_t)
    L_MVG = mean_b log(1 - D(h'_s)),   L_D = mean_b [-log D(h_t) - log(1 - D(h'_s))], which trains D alone
    A(Q, K, V) = softmax(Q K' / sqrt(d)) V in each head; g takes each element from the teacher with chance `mix`

Q_s, K_s and V_s are 3x3 convolutions of the student's stage-3 map, h'_s is a linear map of it, one for each 4x4 tile
of positions. Q_t, K_t, V_t and h_t are of the teacher's last block, without prefix tokens; of Swin, those of the last
block of stage 3 that does not shift its windows, into which both sides are cut, and h_t is stage 3. A student map on
another grid is averaged to the teacher's. Teachers without attention (mlp) get a REDUCED FORM without L_PCA: GL and
adversary only. CNN teachers and token students are refused: the paper does not define them.

One coin an image decides whether the student sees it as it is or transformed (eq. 7): cropped, rotated, jittered in
colour and masked. The teacher sees the same crop and rotation, because features are matched position by position
(variant `literal`: the clean image). Variant `coin_per_transform` draws for each of the four by itself, which leaves
one image in 16 as it is and not every second one.

Defaults: no code was released, and the paper gives neither adversarial_weight, dropout, the widths of D's three
layers, its optimizer nor the strength of the views; these are choices of this suite, as is that D judges each token and
a sample by the mean of its logits. The paper's are mix, tile and that D trains every fifth epoch.

Paper and code: eq. 10 has no label loss; it is added here. "V V / sqrt(d)" is read as MiniLM's value relation, each
norm as a mean squared error, e of algorithm 1 as the epoch. L_MVG is unbounded below: D's logit is clamped in it. The
paper's teacher sees the clean image. D moves together with the student instead of after it. Swin's relative position
bias is left out on both sides, as are rows and columns that do not fill a window.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from cakdbench.method import Batch, Method, Step, check_choices, tunable
from cakdbench.methods.pcagl_views import draw_transforms, geometric_view, photometric_view
from cakdbench.models.staged import ModelInfo, Output, to_tokens
from cakdbench.registry import register
from cakdbench.utils.precision import force_fp32


def attend(qkv: Tensor) -> Tensor:
    """Return the attention output `(..., N, d)` of Q, K and V `(3, ..., N, d)`."""
    q, k, v = qkv
    return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1) @ v


@force_fp32
def partially_cross_attention_loss(student: Tensor, teacher: Tensor, replaced: Tensor | None = None) -> Tensor:
    """`mse(A(mixed), A(teacher))`, the first term of eq. 5 of arXiv:2207.05273.

    Args:
        student: Q, K and V, `(3, B, heads, N, d)`.
        teacher: the same.
        replaced: where the mixed Q, K and V are the teacher's, booleans of the same shape; None: nowhere.
    """
    mixed = student if replaced is None else torch.where(replaced, teacher, student)
    return F.mse_loss(attend(mixed), attend(teacher))


@force_fp32
def value_relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """`mse(V_s V_s' / sqrt(d), V_t V_t' / sqrt(d))` of values `(B, heads, N, d)`, second term of eq. 5, see MiniLM."""
    relations = [v @ v.transpose(-2, -1) / math.sqrt(v.shape[-1]) for v in (student, teacher)]
    return F.mse_loss(*relations)


@force_fp32
def gl_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of student and teacher tokens `(B, N, D)`, L_GL of arXiv:2207.05273."""
    return F.mse_loss(student, teacher)


@force_fp32
def discriminator_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """`mean[-log sigmoid(teacher) - log(1 - sigmoid(student))]` of D's logits `(B,)` on either side's tokens."""
    return (F.softplus(-teacher) + F.softplus(student)).mean()


@force_fp32
def generator_loss(student: Tensor, limit: float = 10.0, nonsat: bool = False) -> Tensor:
    """`mean log(1 - sigmoid(z))` of D's logits z `(B,)`, clamped to `+-limit`; nonsat: `-mean log sigmoid(z)`."""
    if nonsat:
        return F.softplus(-student).mean()
    return -F.softplus(student.clamp(-limit, limit)).mean()


def windowed(x: Tensor, grid: tuple[int, int], window: tuple[int, int] | None) -> Tensor:
    """`(3, B, heads, H*W, d)` to `(3, B * windows, heads, h*w, d)`; what does not fill a window is cut off."""
    if window is None:
        return x
    down, across = (side // size for side, size in zip(grid, window))
    x = x.unflatten(3, grid)[:, :, :, : down * window[0], : across * window[1]]
    x = x.unflatten(4, (across, window[1])).unflatten(3, (down, window[0]))  # 3, B, heads, down, h, across, w, d
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(5, 6).flatten(1, 3)


class GroupLinear(nn.Module):
    """Map `(B, C, H, W)` to tokens `(B, H*W, D)`, with one linear map for each `tile` x `tile` positions."""

    def __init__(self, channels: int, width: int, grid: tuple[int, int], tile: int = 4, dropout: float = 0.0):
        super().__init__()
        self.grid, self.tile = grid, tile
        self.tiles = tuple(-(-side // tile) for side in grid)
        bound = 1 / math.sqrt(channels)  # as nn.Linear starts
        self.dropout = nn.Dropout(dropout)
        self.weight = nn.Parameter(torch.empty(math.prod(self.tiles), channels, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(math.prod(self.tiles), 1, width).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        (rows, columns), size = self.tiles, self.tile
        x = F.pad(self.dropout(x), (0, columns * size - self.grid[1], 0, rows * size - self.grid[0]))
        x = x.unflatten(3, (columns, size)).unflatten(2, (rows, size)).permute(2, 4, 0, 3, 5, 1)
        x = torch.baddbmm(self.bias, x.flatten(0, 1).flatten(1, 3), self.weight)
        x = x.unflatten(1, (-1, size, size)).unflatten(0, (rows, columns))  # rows, columns, B, size, size, D
        x = x.permute(2, 0, 3, 1, 4, 5).flatten(3, 4).flatten(1, 2)
        return x[:, : self.grid[0], : self.grid[1]].flatten(1, 2)


def make_discriminator(width: int) -> nn.Sequential:
    """Make D, from tokens `(B, N, D)` to one logit a sample `(B,)`, the mean over its tokens."""
    half, quarter = max(width // 2, 1), max(width // 4, 1)
    hidden = [nn.Linear(width, half), nn.LeakyReLU(0.2), nn.Linear(half, quarter), nn.LeakyReLU(0.2)]
    mean = [nn.Flatten(), nn.AdaptiveAvgPool1d(1), nn.Flatten(0)]
    return nn.Sequential(*hidden, nn.Linear(quarter, 1), *mean)


@register(
    "pcagl",
    title="PCA/GL",
    paper="Liu et al., ACCV 2022",
    url="https://arxiv.org/abs/2207.05273",
    year=2022,
    kind="adversarial",
    version=2,
)
class PCAGL(Method):
    """Labels, and the teacher's attention and features in the spaces two projectors of the student's map lead to."""

    needs = frozenset({"stages", "attention", "model"})

    @dataclass(frozen=True)
    class Config:
        """Defaults: the paper's where it speaks (mix, tile, disc_every), else choices of this suite.

        Attributes:
            label_weight: of the label loss, which the paper's eq. 10 has not.
            pca_weight: of L_PCA; 0 builds no projector for it.
            gl_weight: of L_GL.
            adversarial_weight: of L_MVG, the paper's lambda; 0 builds no discriminator.
            mix: chance that an element of Q, K or V is the teacher's, in training (paper: 1/2).
            dropout: of the input of the tiles' linear maps.
            student_stage: whose map is projected; 3 has the grid of a ViT/16.
            tile: side of the squares of positions that share a linear map (paper: 4).
            disc_every: D trains when the epoch is a multiple of this (paper: 5).
            disc_unit: `epoch`, or `step` to count steps instead.
            disc_lr: of D's Adam, which has no weight decay.
            disc_betas: likewise.
            nonsat: -log D(h'_s), which is bounded below, in place of log(1 - D(h'_s)).
            logit_limit: to which L_MVG clamps D's logit; without meaning for nonsat.
            mvg: `aligned`, `literal` (the teacher sees the clean image) or `off` (both see it).
            view_chance: of heads, for a transformed image (paper: 1/2).
            view_coin: one for each `image`, which then gets every transform, or one for each `transform` of an image.
            crop_area: smallest share of the image that a crop keeps.
            rotation: largest angle, in degrees.
            jitter: largest change of brightness, contrast and saturation.
            mask_ratio: chance that a patch of a masked image is masked.
            mask_patch: side of these patches, in pixels.
        """

        label_weight: float = 1.0
        pca_weight: float = field(default=1.0, metadata=tunable(0.001, 10, log=True))
        gl_weight: float = field(default=1.0, metadata=tunable(0.001, 10, log=True))
        adversarial_weight: float = field(default=0.1, metadata=tunable(0.0001, 1, log=True))
        mix: float = 0.5
        dropout: float = 0.1
        student_stage: int = 3
        tile: int = 4
        disc_every: int = 5
        disc_unit: Literal["epoch", "step"] = "epoch"
        disc_lr: float = 1e-4
        disc_betas: tuple[float, float] = (0.5, 0.999)
        nonsat: bool = False
        logit_limit: float = 10.0
        mvg: Literal["aligned", "literal", "off"] = "aligned"
        view_chance: float = 0.5
        view_coin: Literal["image", "transform"] = field(default="image", metadata={"neutral": "transform"})
        crop_area: float = 0.5
        rotation: float = 15.0
        jitter: float = 0.4
        mask_ratio: float = 0.25
        mask_patch: int = 16

        def __post_init__(self):
            check_choices(self)
            limits = {"mix": (0, 1), "dropout": (0, 0.99), "view_chance": (0, 1), "mask_ratio": (0, 1)}
            limits |= {"crop_area": (0.01, 1), "rotation": (0, 180), "jitter": (0, 1), "student_stage": (1, 4)}
            for name, (low, high) in limits.items():
                if not low <= getattr(self, name) <= high:
                    raise ValueError(f"{name} must be {low} to {high}, not {getattr(self, name)}")
            if min(self.tile, self.disc_every, self.mask_patch) < 1 or min(self.disc_lr, self.logit_limit) <= 0:
                raise ValueError("tile, disc_every, mask_patch must be at least 1, disc_lr and logit_limit above 0")

    variants = {
        "literal": {"mvg": "literal"},
        "coin_per_transform": {"view_coin": "transform"},
        "no_mvg": {"mvg": "off"},
        "no_adversary": {"adversarial_weight": 0.0},
        "no_pca": {"pca_weight": 0.0},
        "no_gl": {"gl_weight": 0.0, "adversarial_weight": 0.0},
        "no_mix": {"mix": 0.0},
        "nonsat": {"nonsat": True},
        "disc_step": {"disc_unit": "step"},
    }

    @classmethod
    def refuses(cls, teacher: ModelInfo, student: ModelInfo, config: Config) -> str | None:
        """Refuse all but CNN students of transformer (or, in the reduced form, MLP) teachers."""
        if student.kind != "cnn":
            return f"pcagl projects the map of a CNN, and {student.name} is of kind {student.kind}: use a CNN student"
        if teacher.kind == "cnn":
            return f"pcagl teaches a transformer's attention and tokens, and {teacher.name} is a CNN: use a ViT or Swin"
        if config.pca_weight and teacher.kind == "msa" and teacher.attention is None:
            fix = "use a ViT or Swin teacher, or set pcagl.pca_weight=0"
            return f"pcagl cannot look into the attention of {teacher.name}: {fix}"
        return None

    def build(self) -> None:
        """Make the projectors and D, as far as the weights and the teacher leave them something to do."""
        config, self.attention = self.config, self.teacher.attention
        self.stage = self.attention.stage if self.attention else 4
        self.layout = self.teacher.layouts[self.stage - 1]
        channels, width = self.student.layouts[config.student_stage - 1].channels, self.layout.channels
        self.pca = self.gl = self.discriminator = None
        if config.pca_weight and self.attention:
            self.pca = nn.Conv2d(channels, 3 * width, 3, padding=1)
        if config.gl_weight or config.adversarial_weight:
            self.gl = GroupLinear(channels, width, self.layout.grid, config.tile, config.dropout)
        if config.adversarial_weight:
            self.discriminator = make_discriminator(width)
        looked_at = {"stages"} if self.pca is None else {"stages", "attention"}
        self.needs = frozenset({"model"} if config.mvg == "aligned" else looked_at)

    def extra_optimizers(self) -> list[torch.optim.Optimizer]:
        if self.discriminator is None:
            return []
        parameters, config = self.discriminator.parameters(), self.config
        return [torch.optim.Adam(parameters, config.disc_lr, betas=config.disc_betas)]

    def distill_step(self, batch: Batch) -> Step:
        """Run the student once on its views, the teacher on its own."""
        config = self.config
        images, teacher = self.views(batch)
        student = self.student(images, stages=True)
        feature = self._feature(student)
        losses, adversary = {"label": config.label_weight * batch.label_loss(student.logits)}, {}
        if self.pca is not None:
            losses |= self._pca_losses(feature, teacher)
        if self.gl is not None:
            projected, taught = self.gl(feature), self._taught(teacher)
            if config.gl_weight:
                losses["gl"] = config.gl_weight * gl_loss(projected, taught)
            if config.adversarial_weight:
                losses["mvg"], adversary = self._adversarial(projected, taught, batch)
        return Step(student.logits, losses, adversary)

    def projected(self, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Return what L_PCA and L_GL compare, the attention output and the tokens, without mixing and views."""
        feature = self._feature(self.student(images, stages=True))
        teacher = self.teacher(images, stages=True, attention=self.pca is not None)
        pairs = {}
        if self.pca is not None:
            attended = (attend(qkv).transpose(1, 2) for qkv in self._queries(feature, teacher))
            pairs["attention output (PCA)"] = tuple(x.flatten(2).flatten(0, 1) for x in attended)
        if self.gl is not None:
            pairs["tokens (GL)"] = self.gl(feature).flatten(0, 1), self._taught(teacher).flatten(0, 1)
        return pairs

    def _feature(self, student: Output) -> Tensor:
        """Return the student's map on the teacher's grid."""
        feature = student.stages[self.config.student_stage - 1]
        same = feature.shape[-2:] == self.layout.grid
        return feature if same else F.adaptive_avg_pool2d(feature, self.layout.grid)

    def _taught(self, teacher: Output) -> Tensor:
        """Return the teacher's tokens of patches `(B, N, D)`."""
        return to_tokens(self.layout.to_map(teacher.stages[self.stage - 1]))

    def views(self, batch: Batch) -> tuple[Tensor, Output]:
        """Return the images the student sees, and the teacher's outputs on those that it sees."""
        config, images = self.config, batch.images
        aligned = images  # what an aligned teacher sees
        if self.training and config.mvg != "off":
            cropped, rotated, jittered, covered = draw_transforms(images, config.view_chance, config.view_coin)
            aligned = geometric_view(images, cropped, rotated, config.crop_area, config.rotation)
            strength = config.jitter, config.mask_ratio, config.mask_patch
            images = photometric_view(aligned, jittered, covered, *strength)
        if config.mvg != "aligned":
            return images, batch.teacher
        with torch.no_grad():
            return images, self.teacher(aligned, stages=True, attention=self.pca is not None)

    def _pca_losses(self, feature: Tensor, teacher: Output) -> dict[str, Tensor]:
        """Return both terms of L_PCA, weighted."""
        weight = self.config.pca_weight
        own, target = self._queries(feature, teacher)
        replaced = None
        if self.training and self.config.mix:
            replaced = torch.empty(target.shape, dtype=torch.bool, device=target.device).bernoulli_(self.config.mix)
        return {
            "pca": weight * partially_cross_attention_loss(own, target, replaced),
            "value": weight * value_relation_loss(own[2], target[2]),
        }

    def _queries(self, feature: Tensor, teacher: Output) -> tuple[Tensor, Tensor]:
        """Return Q, K and V as projected from the student's map, and the teacher's: `(3, B * windows, heads, N, d)`."""
        grid, window = self.layout.grid, self.attention.window
        own = self.pca(feature).flatten(2).unflatten(1, (3, self.attention.heads, -1))  # B, 3, heads, d, N
        target = torch.stack(teacher.attention)[:, :, :, self.layout.prefix :]
        return windowed(own.permute(1, 0, 2, 4, 3), grid, window), windowed(target, grid, window)

    def _adversarial(self, projected: Tensor, taught: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return L_MVG, through D as it stands, and what D minimises in this step: nothing, if it does not train."""
        config = self.config
        fixed = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        fooled = functional_call(self.discriminator, fixed, (projected,))
        loss = config.adversarial_weight * generator_loss(fooled, config.logit_limit, config.nonsat)
        if getattr(batch, config.disc_unit) % config.disc_every:
            return loss, {}
        logits = self.discriminator(projected.detach()), self.discriminator(taught)
        return loss, {"discriminator": discriminator_loss(*logits)}

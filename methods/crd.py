"""CRD: tell each image's own teacher embedding from those of other classes, and vice versa (Tian et al., 2020).

    v_s = norm(W_s f_s + b_s),   v_t = norm(W_t f_t + b_t)                     both maps are trained
    o_k = exp(m_k . v / tau) / Z      m_0: the image itself, m_1 to m_K: others, of the other network's memory
    l = -mean_b [log(o_0 / (o_0 + K/N + eps)) + sum_k log((K/N) / (o_k + K/N + eps))],   eps = 1e-7
    L = CE(z_s, y) + weight * (l_student + l_teacher) + kd_weight * KD

The two memories hold an embedding of every one of the N training images. After each step, what it embedded enters
them: m = norm(momentum * m + (1 - momentum) * v); if an image was seen twice, the last view counts. Z makes the mean
of o equal to 1/N on the first local batch of a run, one for each side, and stays as it is. Negatives are drawn for
every image anew, with replacement, from the images of other classes than its own label, which is that of the image
itself under mixup too.

Defaults are those of OFA's code. RepDistiller and mdistiller weigh with 0.8, see the variants; so does KD-Zoo, with
another tau. With RepDistiller CRD is also combined with KD at temperature 4.

Paper and code: the paper bounds mutual information with a critic that knows K/N exactly; the code adds eps and an
estimate of Z that is never renewed. RepDistiller draws without replacement unless K exceeds the images to draw from.
Released code lets the processes of a run overwrite each other's memories; here all of them apply all updates. Rows
shorter than 1e-6 are not brought to length 1, where the code would divide by 0.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cakdbench.method import Batch, Method, Step, tunable
from cakdbench.methods.kd import kd_loss
from cakdbench.registry import register
from cakdbench.utils.distributed import all_gather, broadcast
from cakdbench.utils.errors import UsageError
from cakdbench.utils.precision import force_fp32

LEAST_TAU = 0.03  # below, exp(1 / tau) and its inverse over Z leave float32


@force_fp32
def crd_loss(scores: Tensor, n_data: int, eps: float = 1e-7) -> Tensor:
    """Return one side's noise-contrastive loss, as the code of arXiv:1910.10699 (RepDistiller) computes it.

    `-mean_b [log(o_0 / (o_0 + K/N + eps)) + sum_{k >= 1} log((K/N) / (o_k + K/N + eps))]`.

    Args:
        scores: `(B, K + 1)`, above 0, that of the positive first.
        n_data: N, the number of training images.
    """
    noise = (scores.shape[1] - 1) / n_data
    positive, negative = scores[:, 0], scores[:, 1:]
    log_hit = positive.log() - (positive + noise + eps).log()
    return (torch.log1p((negative + eps) / noise).sum() - log_hit.sum()) / len(scores)


@force_fp32
def unit(x: Tensor) -> Tensor:
    """`(B, D)` with rows of length 1."""
    return F.normalize(x, dim=1, eps=1e-6)


class OtherClasses(nn.Module):
    """Draws training images of other classes.

    Args:
        labels: `(N,)` of the training images.

    Raises:
        UsageError: there is one class only.
    """

    def __init__(self, labels: Tensor):
        super().__init__()
        count = torch.bincount(labels)
        if len(labels) == count.max():
            raise UsageError("crd contrasts images of different classes, and all training images are of one")
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("by_class", labels.argsort(stable=True), persistent=False)
        self.register_buffer("count", count, persistent=False)
        self.register_buffer("first", count.cumsum(0) - count, persistent=False)

    def draw(self, index: Tensor, number: int) -> Tensor:
        """`(B, number)` positions of images, uniformly with replacement, none of the class of its row's `index`."""
        own = self.labels[index][:, None]
        count, first = self.count[own], self.first[own]
        numbers = torch.randint(2**62, (len(index), number), device=index.device)  # so many that % favours none
        place = numbers % (len(self.labels) - count)
        return self.by_class[place + count * (place >= first)]


class Memory(nn.Module):
    """Embeddings of all training images by both networks, and the constants that scale their scores.

    Args:
        samples: N, the number of training images.
        momentum: weight of the old embedding when a new one comes.
    """

    def __init__(self, samples: int, dim: int, tau: float, momentum: float):
        super().__init__()
        self.tau, self.momentum = tau, momentum
        bound = (3 / dim) ** 0.5  # rows are about as long as 1
        self.register_buffer("student", torch.empty(samples, dim).uniform_(-bound, bound))
        self.register_buffer("teacher", torch.empty(samples, dim).uniform_(-bound, bound))
        self.register_buffer("z", torch.zeros(2))  # of the student's scores and of the teacher's; 0: not known yet
        self._scaled = False

    @force_fp32
    def scores(self, student: Tensor, teacher: Tensor, picked: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, K + 1)` of the student's embeddings with the teacher's memory, and the other way round.

        Args:
            student: `(B, D)`, of length 1.
            teacher: likewise.
            picked: `(B, K + 1)` positions of images, the positive first.
        """
        # all products at once: gathering the rows themselves would take K * D / N times the memory
        products = ((student @ self.teacher.T).gather(1, picked), (teacher @ self.student.T).gather(1, picked))
        raw = [(product / self.tau).exp() for product in products]
        self._scale(*raw)
        return raw[0] / self.z[0], raw[1] / self.z[1]

    def _scale(self, *raw: Tensor) -> None:
        """Set Z if it is not known, which only the first step after start or load asks; it does not wait to know."""
        if not self._scaled:
            means = broadcast(len(self.student) * torch.stack([scores.detach().mean() for scores in raw]))
            self.z.copy_(torch.where(self.z.any(), self.z, means))
        self._scaled = True

    @torch.no_grad()
    def renew(self, index: Tensor, student: Tensor, teacher: Tensor) -> None:
        """Let embeddings `(M, D)` of the images `index` `(M,)` enter; of several of one image the last."""
        rows = torch.arange(len(index), device=index.device)
        last = ((index[:, None] == index) * rows).amax(1)
        for bank, embedded in ((self.student, student), (self.teacher, teacher)):
            moved = self.momentum * bank[index] + (1 - self.momentum) * embedded[last]
            bank.index_copy_(0, index, unit(moved))

    def _load_from_state_dict(self, *args) -> None:
        super()._load_from_state_dict(*args)
        self._scaled = False


@register(
    "crd",
    title="CRD",
    paper="Tian et al., ICLR 2020",
    url="https://arxiv.org/abs/1910.10699",
    year=2020,
    kind="features",
)
class CRD(Method):
    """Labels, and contrast of both networks' embeddings with memories of each other's."""

    needs = frozenset({"logits", "pooled"})
    least_classes = 2

    @dataclass(frozen=True)
    class Config:
        """Defaults of OFA's code.

        Attributes:
            dim: width of the embeddings.
            negatives: K, images of other classes an image is compared with.
            tau: temperature of the scores.
            momentum: weight of a memory's old embedding when a new one comes.
            weight: of the sum of both sides; 0 leaves it out.
            kd_weight: of `kd`'s loss on the logits, RepDistiller's combination; 0 leaves it out.
            temperature: of `kd`'s loss, RepDistiller's.
        """

        dim: int = 128
        negatives: int = 16384
        tau: float = field(default=0.07, metadata=tunable(0.03, 0.5, log=True))
        momentum: float = 0.5
        weight: float = field(default=1.0, metadata=tunable(0.001, 10, log=True))
        kd_weight: float = 0.0
        temperature: float = 4.0

        def __post_init__(self):
            if min(self.dim, self.negatives) < 1:
                raise ValueError(f"dim and negatives must be at least 1, not {self.dim} and {self.negatives}")
            if self.tau < LEAST_TAU or self.temperature <= 0:
                raise ValueError(f"tau must be at least {LEAST_TAU} and temperature above 0")
            if not 0 <= self.momentum <= 1:
                raise ValueError(f"momentum must be from 0 to 1, not {self.momentum}")

    variants = {
        "repdistiller": {"weight": 0.8},
        "repdistiller_kd": {"weight": 0.8, "kd_weight": 1.0},
        "kd_zoo": {"weight": 0.8, "tau": 0.1},
    }

    def build(self) -> None:
        """Make embeddings, memories and the draw of negatives, if the weight leaves them something to do."""
        config = self.config
        parts = {"logits": config.kd_weight, "pooled": config.weight}
        self.needs = frozenset(part for part, weight in parts.items() if weight)
        self._embedded: list[tuple[Tensor, Tensor]] = []  # index and both embeddings of a local batch
        if not config.weight:
            return
        if self.labels is None:
            raise UsageError("crd draws negatives of other classes and needs the labels of the training images")
        self.embed_student = nn.Linear(self.student.width, config.dim)
        self.embed_teacher = nn.Linear(self.teacher.width, config.dim)
        self.memory = Memory(len(self.labels), config.dim, config.tau, config.momentum)
        self.others = OtherClasses(self.labels)

    def distill_step(self, batch: Batch) -> Step:
        config, student = self.config, self.student(batch.images)
        losses = {"label": batch.label_loss(student.logits)}
        if config.weight:
            losses["crd"] = config.weight * self._contrast(batch.index, student.pooled, batch.teacher.pooled)
        if config.kd_weight:
            losses["kd"] = config.kd_weight * kd_loss(student.logits, batch.teacher.logits, config.temperature)
        return Step(student.logits, losses)

    def _contrast(self, index: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = unit(self.embed_student(student)), unit(self.embed_teacher(teacher))
        picked = torch.cat([index[:, None], self.others.draw(index, self.config.negatives)], 1)
        sides = self.memory.scores(student, teacher, picked)
        self._embedded.append((index, torch.cat([student, teacher], 1).detach()))
        return sum(crd_loss(scores, len(self.labels)) for scores in sides)

    def step_end(self) -> None:
        """Let the step's embeddings enter the memories, on every process those of all, in the order of places."""
        parts, self._embedded = self._embedded, []
        if parts:  # the n-th local batches of all processes come before the next ones, as with one process
            index = torch.cat([all_gather(index) for index, _ in parts])
            embedded = torch.cat([all_gather(both) for _, both in parts])
            self.memory.renew(index, *embedded.chunk(2, 1))

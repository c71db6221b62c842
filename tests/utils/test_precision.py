"""Every loss is finite, with its gradient, on inputs that training does meet; and runs in float32 under autocast."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cakdbench.methods.at import at_loss
from cakdbench.methods.cc import cc_loss, cc_peng_loss
from cakdbench.methods.dist import dist_loss
from cakdbench.methods.dkd import dkd_loss
from cakdbench.methods.fbt import feature_mse_loss, info_nce_loss
from cakdbench.methods.fcfd import feature_loss, pooled_loss
from cakdbench.methods.fitnet import fitnet_loss
from cakdbench.methods.irg import irg_edge_loss, irg_transform_loss, irg_vertex_loss
from cakdbench.methods.kd import kd_loss
from cakdbench.methods.lskd import standardize
from cakdbench.methods.ofa import ofa_loss
from cakdbench.methods.pcagl import discriminator_loss, generator_loss, gl_loss
from cakdbench.methods.reviewkd import hcl_loss
from cakdbench.methods.rkd import rkd_angle_loss, rkd_distance_loss
from cakdbench.methods.rsd import rsd_loss

LOGITS = {
    "kd": lambda s, t, y: kd_loss(s, t, 4.0),
    "dkd": lambda s, t, y: dkd_loss(s, t, y, 1.0, 8.0, 4.0),
    "dist": lambda s, t, y: dist_loss(s, t),
    "lskd": lambda s, t, y: kd_loss(standardize(s), standardize(t), 2.0),
    "lskd on dkd": lambda s, t, y: dkd_loss(standardize(s), standardize(t), y, temperature=2.0),
    "ofa": lambda s, t, y: ofa_loss(s, t, y, 1.5),
    "ofa, paper form": lambda s, t, y: ofa_loss(s, t, y, 1.5, form="paper"),
    "irg vertices": lambda s, t, y: irg_vertex_loss(s, t),
}
FEATURES = {
    "cc": cc_loss,
    "cc, peng": cc_peng_loss,
    "rkd distance": rkd_distance_loss,
    "rkd angle": rkd_angle_loss,
    "rsd": rsd_loss,
    "irg edges": irg_edge_loss,
    "irg transformation": lambda s, t: irg_transform_loss(s, 2 * s, t, 3 * t),
    "info nce": lambda s, t: info_nce_loss(s, t, 100.0),
    "mse": feature_mse_loss,
    "gl": lambda s, t: gl_loss(s[:, None], t[:, None]),
    "adversary": lambda s, t: discriminator_loss(s[:, 0], t[:, 0]) + generator_loss(s[:, 0]),
}
MAPS = {"at": at_loss, "hcl": hcl_loss, "fitnet": fitnet_loss, "fcfd": feature_loss, "fcfd, pooled": pooled_loss}


def rows(kind: str, batch: int, width: int) -> torch.Tensor:
    draw = torch.randn(batch, width, generator=torch.Generator().manual_seed(len(kind) + batch))
    return {
        "usual": draw,
        "huge": 1e4 * draw.sign(),
        "one huge": 1e4 * torch.nn.functional.one_hot(torch.arange(batch) % width, width).float(),
        "constant": torch.full((batch, width), 2.5),
        "zero": torch.zeros(batch, width),
        "identical": draw[:1].expand(batch, width).clone(),
        "nearly identical": draw[:1] + 1e-7 * draw,
    }[kind]


KINDS = ["usual", "huge", "one huge", "constant", "zero", "identical", "nearly identical"]
cases = {
    "student": st.sampled_from(KINDS),
    "teacher": st.sampled_from(KINDS),
    "batch": st.sampled_from([2, 3, 5]),
    "half": st.booleans(),
}


def check_finite(loss, student, teacher, half):
    """Value and gradient, in float32, or in bfloat16 under autocast."""
    student = student.to(torch.bfloat16 if half else torch.float32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        value = loss(student, teacher.to(student.dtype))
    assert value.dtype == torch.float32 and value.ndim == 0 and value.isfinite()
    (gradient,) = torch.autograd.grad(value, student)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", LOGITS)
@settings(deadline=None, max_examples=60)
@given(**cases)
def test_losses_of_logits(name, student, teacher, batch, half):
    target = torch.arange(batch) % 10
    given_rows = rows(student, batch, 10), rows(teacher, batch, 10)
    check_finite(lambda s, t: LOGITS[name](s, t, target), *given_rows, half)


@pytest.mark.parametrize("name", FEATURES)
@settings(deadline=None, max_examples=60)
@given(**cases)
def test_losses_of_features(name, student, teacher, batch, half):
    check_finite(FEATURES[name], rows(student, batch, 8), rows(teacher, batch, 8), half)


@pytest.mark.parametrize("name", MAPS)
@settings(deadline=None, max_examples=40)
@given(**cases)
def test_losses_of_maps(name, student, teacher, batch, half):
    maps = [rows(kind, batch, 3 * 36).view(batch, 3, 6, 6) for kind in (student, teacher)]
    check_finite(MAPS[name], *maps, half)


@pytest.mark.parametrize("loss", [kd_loss, dist_loss, cc_loss, rkd_distance_loss, at_loss, hcl_loss, rsd_loss])
def test_losses_take_their_arguments_by_name_and_keep_double_precision(loss):
    shape = (4, 3, 6, 6) if loss in (at_loss, hcl_loss) else (4, 8)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    first, second = list(inspect.signature(loss).parameters)[:2]
    by_name = loss(**{first: student, second: teacher})
    assert by_name.dtype == torch.float64 and torch.equal(by_name, loss(student, teacher))

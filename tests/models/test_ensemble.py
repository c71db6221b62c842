"""Several teachers as one network: the mean of their logits, each one's own outputs, and what is known of them."""

import pytest
import torch

from cakdbench.models.ensemble import join, join_infos
from cakdbench.models.staged import StagedModel
from cakdbench.models.zoo import model_info
from cakdbench.utils.errors import UsageError


def network(name, seed=0):
    torch.manual_seed(seed)
    return StagedModel(name, 10, 64).eval()


@torch.no_grad()
def test_the_logits_are_the_mean_and_each_has_its_own_outputs():
    networks, images = [network("resnet_m"), network("swin_m", 1), network("vit_m", 2)], torch.randn(3, 3, 64, 64)
    output, each = join(networks)(images, stages=True), [net(images, stages=True) for net in networks]
    torch.testing.assert_close(output.logits, sum(own.logits for own in each) / 3)
    assert output.pooled is None and output.stages is None
    for own, other in zip(output.each, each, strict=True):
        assert torch.equal(own.logits, other.logits) and torch.equal(own.pooled, other.pooled)
        assert all(map(torch.equal, own.stages, other.stages))


def test_one_network_stays_as_it_is():
    alone = network("resnet_m")
    assert join([alone]) is alone and join_infos([alone.info]) is alone.info


def test_several_are_as_wide_as_the_widest_and_have_no_stages():
    infos = [model_info(name, 10, 64) for name in ("resnet_m", "convnext_m", "swin_m")]
    both, all = join_infos(infos[:2]), join_infos(infos)
    assert (both.name, both.kind, all.kind) == ("resnet_m+convnext_m", "cnn", "mixed")
    assert both.width == max(info.width for info in infos[:2]) and both.members == tuple(infos[:2])
    assert both.parameters == sum(info.parameters for info in infos[:2])
    assert both.parts == infos[0].parts >= {"pooled", "stages"}
    assert join_infos([infos[0], model_info("timm:levit_128s", 10, 224)]).parts == {"logits", "model"}
    with pytest.raises(UsageError, match="resnet_m.convnext_m are several networks"):
        both.layouts[0]

"""CKA by its definition, its invariances, and the fitted map."""

import numpy as np
import pytest
import torch

from cakdbench.analysis import linear_cka, similarity
from cakdbench.models.staged import StagedModel
from cakdbench.utils.errors import UsageError


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(seed, size):
    return torch.linalg.qr(draw(seed, size, size))[0]


def by_definition(x, y):
    """HSIC of the centred Gram matrices, normalised (Kornblith et al., eq. 3 to 5)."""
    n = len(x)
    center = np.eye(n) - 1 / n
    k, m = (center @ (z @ z.T).numpy() @ center for z in (x, y))
    return (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())


@pytest.mark.parametrize("widths", [(3, 3), (5, 2), (4, 30)])
def test_it_is_the_definition(widths):
    x, y = (draw(seed, 20, width) + 100 for seed, width in enumerate(widths))
    y[:, 0] += 3 * x[:, 1]
    assert linear_cka(x, y) == pytest.approx(by_definition(x, y), abs=1e-12)


def test_of_itself_it_is_1_whatever_rotation_scale_and_shift():
    x = draw(0, 30, 6)
    assert linear_cka(x, x) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, 7 * x @ rotation(1, 6) - 4) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, x @ draw(2, 6, 6)) < 0.99


def test_unrelated_features_are_far_and_constant_ones_undefined():
    assert linear_cka(draw(0, 4000, 3), draw(1, 4000, 3)) < 0.01
    assert np.isnan(linear_cka(draw(0, 5, 3), torch.ones(5, 2)))


@pytest.fixture(scope="module")
def images():
    return list(draw(5, 24, 3, 64, 64).float().split(8))


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return [StagedModel(name, 10, 64).eval() for name in ("resnet_m", "vit_xs")]


@pytest.mark.filterwarnings("ignore:CKA of")
class TestOfNetworks:
    def test_batches_add_up_to_all_images_at_once(self, networks, images):
        with pytest.warns(UserWarning, match="CKA of 24 images and up to 192 features comes out too high"):
            whole = similarity(*networks, lambda: [torch.cat(images)])
        assert similarity(*networks, lambda: images).to_numpy() == pytest.approx(whole.to_numpy(), abs=1e-9)
        with torch.no_grad():
            outputs = [model(torch.cat(images), stages=True) for model in networks]
        stage_2 = [model.layouts[1].to_map(o.stages[1]).mean((2, 3)) for model, o in zip(networks, outputs)]
        assert whole.loc["stage 2", "stage 2"] == pytest.approx(by_definition(*(x.double() for x in stage_2)), abs=1e-9)
        assert whole.loc["final", "final"] == pytest.approx(
            by_definition(*(o.pooled.double() for o in outputs)), abs=1e-9
        )

    def test_a_network_with_itself_is_1_on_the_diagonal_and_symmetric(self, networks, images):
        table = similarity(networks[1], networks[1], lambda: images).to_numpy()
        assert table.diagonal() == pytest.approx(1, abs=1e-9)
        assert table == pytest.approx(table.T, abs=1e-12) and (table <= 1 + 1e-9).all()

    def test_a_map_is_judged_on_images_it_was_not_fitted_on(self, networks):
        batches = list(draw(6, 64, 3, 64, 64).float().split(16))
        own = similarity(networks[0], networks[0], lambda: batches, "map")
        other = similarity(*networks, lambda: batches, "map")
        assert own.loc["stage 1", "stage 1"] > 0.9 > other.loc["stage 1", "final"]

    def test_what_cannot_be_compared_is_one_line(self, networks, images):
        with pytest.raises(UsageError, match="unknown measure 'rsa'; known: cka, map"):
            similarity(*networks, lambda: images, "rsa")
        with pytest.raises(UsageError, match="more images than one batch"):
            similarity(*networks, lambda: images[:1], "map")

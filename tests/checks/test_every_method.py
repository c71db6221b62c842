"""Every registered method keeps the contract, as `cakdbench check` sees it."""

import pytest
import torch

from cakdbench.checks import check_method
from cakdbench.checks.check import CHECKS
from cakdbench.checks.lab import DIRECTIONS, Lab
from cakdbench.checks.training import same_as_one, train_in_two
from cakdbench.registry import get_method, method_ids

LABS = {id: Lab(get_method(id)) for id in method_ids()}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def trained_in_two(tmp_path_factory):
    """All methods, trained one after the other by the same two processes."""
    folder = tmp_path_factory.mktemp("two")
    train_in_two(list(LABS.values()), folder)
    return folder


@pytest.mark.parametrize("id", LABS)
def test_the_contract_is_kept(id):
    findings = list(check_method(LABS[id], processes=False))
    assert [f"{each.title}: {each.detail}" for each in findings if not each.passed] == []
    assert len(findings) == len(CHECKS)


@pytest.mark.parametrize("id", LABS)
def test_two_processes_train_what_one_trains(id, trained_in_two):
    assert same_as_one(LABS[id], trained_in_two)


def test_only_what_is_defined_for_some_directions_is_refused():
    refused = {id: [str(d) for d in DIRECTIONS if lab.refusal(d)] for id, lab in LABS.items()}
    assert {id for id, directions in refused.items() if directions} == {"pcagl"}
    assert [str(d) for d in LABS["pcagl"].accepted] == ["msa > cnn", "mlp > cnn"]

"""Tests on a GPU, collected where there is one; CAKDBENCH_TEST_DEVICE=cpu runs them without, to try their own code."""

import os

import pytest
import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts: its products can be deterministic

DEVICE = torch.device(os.environ.get("CAKDBENCH_TEST_DEVICE", "cuda"))
collect_ignore_glob = [] if DEVICE.type == "cpu" or torch.cuda.is_available() else ["test_*.py"]


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/cuda" in item.path.as_posix():
            item.add_marker(pytest.mark.cuda)


@pytest.fixture(scope="session")
def device() -> torch.device:
    return DEVICE


@pytest.fixture(autouse=True, scope="module")
def exact():
    """Products and convolutions in full float32, by deterministic kernels where there are some.

    Of a module, so that its own fixtures are made under it.
    """
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags:
        flag.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    for flag, value in zip(flags, before):
        flag.allow_tf32 = value

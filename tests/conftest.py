"""Shared fixtures: assets that may be absent, one thread, no network."""

import logging
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import pytest
import torch

ASSETS = Path(os.environ.get("EIGEN_LIGHTNING_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))


def asset(name: str) -> Path:
    """The path of a development asset; skips the test where it is absent."""
    path = ASSETS / name
    if not path.exists():
        pytest.skip(f"{path} is absent; set EIGEN_LIGHTNING_ASSETS to the folder that holds {name}")
    return path


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _package_log() -> None:
    """Each test starts with the package's log unset, whatever a command before it, or a wider fixture's, set up."""
    logger = logging.getLogger("eigen_lightning")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def gpt_neo_folder() -> Path:
    return asset("gpt-neo-tinystories")


@pytest.fixture(scope="session")
def stories260k_folder() -> Path:
    return asset("stories260K")


@pytest.fixture(scope="session")
def gpt2_tokenizer_folder() -> Path:
    return asset("gpt2-tokenizer")


@pytest.fixture(scope="session")
def tinystories_file() -> Path:
    return asset("tinystories/train.txt")


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which each toy target is trained once a session."""
    return tmp_path_factory.mktemp("toys")


@pytest.fixture
def trained_tms(toy_folder: Path) -> Any:
    """TMS with five features in two dimensions, trained."""
    from eigen_lightning.targets import TMSTarget
    from tests.toy_runs import trained

    return trained(TMSTarget(), toy_folder / "tms")

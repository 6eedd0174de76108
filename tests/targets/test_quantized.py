"""A folder that needs a package that is not installed: one line that names it."""

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from eigen_lightning.run.errors import UserError
from eigen_lightning.targets import Transformer

KINDS = {
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "gptqmodel": {"quant_method": "awq", "bits": 4, "group_size": 128},
    "optimum": {"quant_method": "gptq", "bits": 4, "group_size": 128},
}


@pytest.mark.parametrize(("package", "settings"), KINDS.items(), ids=str)
def test_the_package_is_named(
    tiny_folder: Callable[[str], Path], tmp_path: Path, package: str, settings: dict[str, Any]
) -> None:
    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "model")
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**stored, "quantization_config": settings}))
    with pytest.raises(UserError, match=package) as caught:
        Transformer(str(folder), ["blocks.1.attn.W_K"]).load(None)
    assert "before quantization" in str(caught.value)
    assert "\n" not in str(caught.value)

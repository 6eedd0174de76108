"""A decomposition as it is shared: the files of a Hugging Face model repository, read as a run folder."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder, write_atomically

FORMAT = 1
"""Version of the layout, raised when readers of an older one could no longer read it."""

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")

PRIVATE = ("command", "data", "devices", "git_revision")
"""Entries of the manifest that tell of the machine and its files rather than of the decomposition."""


class SharedFolder(RunFolder):
    """``config.json`` is the manifest, ``model.safetensors`` the directions; all else is named as in a run folder."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.manifest = self.path / "config.json"
        self.directions = self.path / "model.safetensors"
        self.card = self.path / "README.md"

    @property
    def results(self) -> tuple[str, ...]:
        """Attributes of the files that are shared beside manifest, directions and card, where a run has them."""
        return (
            "target",
            "scorecard",
            "top_examples",
            "interventions",
            "cards",
            "interference",
            "coactivity",
            "vocabulary",
            "circuit",
        )


def write_shared(run: RunFolder, manifest: Mapping[str, Any], card: str, path: str | Path) -> SharedFolder:
    """Write what is shared of a run.

    Args:
        run: its folder.
        manifest: its content.
        card: the text of the model card.
        path: the folder to write; files of the same names are replaced.

    Raises:
        UserError: where ``path`` is the run folder itself or a file.
    """
    shared = SharedFolder(path)
    if shared.path.resolve() == run.path.resolve() or shared.path.is_file():
        raise UserError(f"expected a folder of its own to share the run in, got {shared.path}")
    shared.path.mkdir(parents=True, exist_ok=True)
    for name in shared.results:
        source, destination = getattr(run, name), getattr(shared, name)
        # A file of an earlier export would pass for a result of this run.
        destination.unlink(missing_ok=True)
        if source.exists():
            shutil.copyfile(source, destination)
    shutil.copyfile(run.directions, shared.directions)
    write_atomically(shared.card, card.encode())
    public = {name: value for name, value in manifest.items() if name not in PRIVATE}
    facts = {"library_name": "eigen-lightning", "format": FORMAT}
    of_target = {"target": _public_target(manifest["target"]), "data": {"class": manifest["data"]["class"]}}
    shared.write_json(shared.manifest, {**public, **facts, **of_target})
    return shared


def public_name(name: str) -> str:
    """The name of a model on the Hub as it is; of a folder on this machine, the folder's own."""
    return Path(name).name if _is_local(name) else name


def _is_local(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or ("/" in name and Path(name).exists())


def _public_target(target: Mapping[str, Any]) -> dict[str, Any]:
    """The target without paths of this machine, which are to be given to ``load`` elsewhere."""
    recipe = target["recipe"]
    paths = [name for name, value in recipe["init_args"].items() if isinstance(value, str) and _is_local(value)]
    arguments = {name: value for name, value in recipe["init_args"].items() if name not in paths}
    public = {**target, "recipe": {**recipe, "init_args": arguments, "missing": [*recipe["missing"], *paths]}}
    return public | ({"name": public_name(target["name"])} if "name" in target else {})


def run_folder(path: str | Path) -> RunFolder:
    """The folder of a run: of one's own, shared by :func:`write_shared`, or shared on the Hugging Face Hub.

    Args:
        path: a folder, or a Hub name such as ``someone/tinystories-directions``, which is downloaded where no folder
            has that name.

    Raises:
        UserError: where a Hub name leads nowhere, or to what is no decomposition or one of a later format.
    """
    local = Path(path)
    if not local.exists() and HUB_NAME.fullmatch(os.fspath(path)) and local.parent != Path("runs"):
        local = _downloaded(os.fspath(path))
    run, shared = RunFolder(local), SharedFolder(local)
    if run.manifest.exists() or not (shared.manifest.exists() and shared.directions.exists()):
        return run
    facts = shared.read_json(shared.manifest)
    if facts.get("library_name") != "eigen-lightning":
        raise UserError(
            f"expected a decomposition that save_pretrained wrote, got {path}, whose config.json is of another library"
        )
    if facts["format"] > FORMAT:
        raise UserError(
            f"expected a decomposition in format {FORMAT} or earlier, got format {facts['format']} in {path}: upgrade "
            "eigen-lightning"
        )
    return shared


def _downloaded(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.jsonl", "*.safetensors", "*.npy", "*.md"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"expected a run folder or the Hub name of a decomposition, got {name!r}: there is no such folder, and the "
            f"Hub answered: {reason}"
        ) from error

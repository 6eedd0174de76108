"""A run brought back with its samples, from its configuration: for what looks further into it. No Trainer is needed."""

from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser

from eigen_lightning.api.run import Run
from eigen_lightning.curvature import Divergence
from eigen_lightning.data import SampleStream
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.targets import Target


def load_with_samples(run_dir: str | Path, device: Any = None) -> tuple[Run, SampleStream]:
    """The run, with target and divergence of its configuration, and its samples.

    Args:
        run_dir: the run's folder.
        device: where the target goes.

    Raises:
        UserError: where the folder holds no finished epoch or no configuration, or target or samples are no longer
            those of the run.
    """
    folder = RunFolder(run_dir)
    needed = ((folder.config, "configuration"), (folder.manifest, "manifest"), (folder.directions, "directions"))
    for path, what in needed:
        if not path.exists():
            raise UserError(
                f"expected a run folder with results, got {folder.path}, which has no {what} ({path.name}); "
                "run `fit --run_dir` there first"
            )
    config = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    manifest = folder.read_json(folder.manifest)
    parser = _Parser()
    parser.add_subclass_arguments(Target, "target")
    parser.add_subclass_arguments(SampleStream, "data")
    parser.add_argument("--divergence", type=str | Divergence | None, default=None)
    model = config["model"]
    parts = {"target": model["target"], "data": config["data"], "divergence": model.get("divergence")}
    built = parser.instantiate_classes(parser.parse_object(parts))
    target, data = built["target"], built["data"]
    divergence = built["divergence"] if isinstance(built["divergence"], Divergence) else None
    run = Run(folder, target, divergence, device)
    if data.seed is None:
        data.seed = manifest["seed"]
    data.for_target = run.target
    data.setup("validate")
    if data.fingerprint() != manifest["data_fingerprint"]:
        raise UserError(
            f"expected the samples of the run ({manifest['data_fingerprint'][:12]}), got others "
            f"({data.fingerprint()[:12]}): the data has changed since; run `fit` again"
        )
    return run, data


class _Parser(ArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(f"expected the run's own configuration, got: {' '.join(message.split())}") from ex

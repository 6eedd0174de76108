"""A finished run, brought back from its folder: for commands that look further into what it found."""

from pathlib import Path
from typing import cast

import yaml
from lightning.pytorch import LightningDataModule, Trainer, seed_everything

from eigen_lightning.cli.main import Parser
from eigen_lightning.data import SampleStream
from eigen_lightning.learning import SparseEigendecomposition
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder


def load_run(run_dir: str | Path, accelerator: str = "auto") -> tuple[SparseEigendecomposition, SampleStream]:
    """The module with its learned directions and loaded target, and the samples, as the run left them.

    The configuration is read by the parser that the command line uses. Both parts are attached to a Trainer that
    writes nothing, and the module and its target are on its device.

    Args:
        run_dir: the run's folder.
        accelerator: Lightning's name of the device to use.

    Raises:
        UserError: where the folder holds no finished epoch, or the target is no longer the one that was decomposed.
    """
    run = RunFolder(run_dir)
    for path, what in ((run.config, "configuration"), (run.manifest, "manifest"), (run.directions, "directions")):
        if not path.exists():
            raise UserError(
                f"expected a run folder with results, got {run.path}, which has no {what} ({path.name}); "
                "run `fit --run_dir` there first"
            )
    manifest = run.read_json(run.manifest)
    seed_everything(manifest["seed"], workers=True, verbose=False)
    parser = Parser()
    parser.add_lightning_class_args(SparseEigendecomposition, "model")
    parser.add_lightning_class_args(SampleStream, "data", subclass_mode=True)
    config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    built = parser.instantiate_classes(parser.parse_object({key: config[key] for key in ("model", "data")}))
    module, data = cast(SparseEigendecomposition, built["model"]), cast(SampleStream, built["data"])
    _attach(module, data, run, accelerator)
    found = module.target.fingerprint()
    if found != manifest["target_fingerprint"]:
        raise UserError(
            f"expected the target that was decomposed ({manifest['target_fingerprint'][:12]}), got another "
            f"({found[:12]}): its weights have changed since; run `fit` again"
        )
    if data.fingerprint() != manifest["data_fingerprint"]:
        raise UserError(
            f"expected the samples of the run ({manifest['data_fingerprint'][:12]}), got others "
            f"({data.fingerprint()[:12]}): the data has changed since; run `fit` again"
        )
    directions, _ = run.read_directions()
    module.U.data = directions.to(module.U)
    return module, data


def _attach(module: SparseEigendecomposition, data: LightningDataModule, run: RunFolder, accelerator: str) -> None:
    trainer = Trainer(
        default_root_dir=run.path,
        accelerator=accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.strategy.connect(module)
    module.trainer = trainer
    data.trainer, trainer.datamodule = trainer, data  # type: ignore[attr-defined]
    module.target.load(run)
    data.setup("validate")
    module.setup("validate")
    module.configure_model()
    module.to(trainer.strategy.root_device)
    module.on_validation_start()

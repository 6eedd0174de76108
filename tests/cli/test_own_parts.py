"""A target, a divergence, a metric and a callback of one's own: one file and one line of YAML each."""

import json
from pathlib import Path

import pytest
import yaml

from eigen_lightning.cli.main import run

PARTS = {
    "own_target": """
from torch import nn
from eigen_lightning.targets import Target

class Fixed(Target):
    def network_with_weights(self, run):
        network = nn.Linear(2, 1, bias=False)
        nn.init.constant_(network.weight, 0.5)
        return network
""",
    "own_divergence": """
from eigen_lightning.curvature import Divergence

class Tenfold(Divergence):
    def value(self, outputs, reference):
        return 10 * (outputs - reference).square().sum(-1)
""",
    "own_metric": """
from eigen_lightning.learning.callbacks.evaluation import EvaluationCallback, run_folder_of
from torchmetrics import MaxMetric

class Largest(EvaluationCallback):
    def metrics(self, module, sets):
        return {name: MaxMetric() for name in sets}

    def update(self, metric, curvature, batch):
        metric.update(curvature)

    def finish(self, trainer, module, results):
        run = run_folder_of(trainer)
        run.write_json(run.path / "largest.json", {name: float(value) for name, value in results.items()})
""",
    "own_callback": """
from lightning.pytorch import Callback
from pathlib import Path

class Ended(Callback):
    def on_train_end(self, trainer, pl_module):
        Path(trainer.default_root_dir, "ended").touch()
""",
}


def test_each_is_one_file_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, source in PARTS.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    config = {
        "model": {
            "target": {"class_path": "own_target.Fixed", "init_args": {"parameters": ["weight"]}},
            "divergence": {"class_path": "own_divergence.Tenfold"},
            "n_directions": 1,
        },
        "data": {"class_path": "XOR", "init_args": {"samples_per_epoch": 64, "batch_size": 64}},
        "trainer": {
            "max_epochs": 1,
            "callbacks": [{"class_path": "own_metric.Largest"}, {"class_path": "own_callback.Ended"}],
        },
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    run(["fit", f"--config={tmp_path / 'own.yaml'}", f"--run_dir={tmp_path / 'run'}", "--quiet", "--report=false"])
    assert (tmp_path / "run" / "ended").exists()
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["curvature"]["divergence"] == "Tenfold"
    # d2D of a unit row u on x is 20 (u x)^2: at most 40, on (1, 1).
    largest = json.loads((tmp_path / "run" / "largest.json").read_text())["heldout"]
    assert 10 < largest <= 40 * (1 + 1e-5)

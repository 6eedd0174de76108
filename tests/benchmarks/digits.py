"""What tells a trained image classifier from an untrained one: ``python tests/benchmarks/digits.py --seeds 10``.

A CNN on scikit-learn's digits, decomposed trained and untrained, each beside as many directions learned on random
weights of its own scale. Twins are directions whose relative curvature over images is alike (cosine above 0.9) to that
of another: where training gave nothing to tell images apart by, directions learn the same.
"""

import argparse
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(ROOT))

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import eigen_lightning as el
from eigen_lightning.learning.callbacks import Scorecard
from tests.api.digits import digits, trained_cnn

DIRECTIONS = 10
COLUMNS = ("learned", "pca", "random", "random_network")


def twins(seed: int, trained: bool, folder: Path) -> dict[str, float]:
    """Twins among ten directions of the second convolution, by column of the scorecard."""
    images, labels = digits()
    model = trained_cnn(images, labels, epochs=6 if trained else 0, seed=seed)
    if not trained:
        _settle(model, images, labels)
    run = el.fit(
        model.eval(), images, parameters=["3.weight"], divergence="kl", n_directions=DIRECTIONS, max_epochs=2,
        run_dir=folder, seed=seed, report=False, quiet=True, callbacks=[Scorecard(random_network=True)],
    )  # fmt: skip
    return {column: run.scorecard[column]["twins"] for column in COLUMNS}


def _settle(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Running statistics of an untrained network, which a trained one has from its training."""
    with torch.no_grad():
        for x, _ in DataLoader(TensorDataset(images, labels), batch_size=64):
            model.train()(x)


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first_seed", type=int, default=100, help="the first of them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("seed", "network", *COLUMNS, title=f"Twins among {DIRECTIONS} directions")
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for trained in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                found = twins(seed, trained, Path(folder))
            name = "trained" if trained else "untrained"
            table.add_row(str(seed), name, *(f"{found[column]:.3g}" for column in COLUMNS))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

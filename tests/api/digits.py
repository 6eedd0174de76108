"""scikit-learn's digits and a small network trained on them: a second or two."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def digits() -> tuple[Tensor, Tensor]:
    """1797 images ``[1, 8, 8]`` of numbers from 0 to 1, and their digits."""
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    return torch.as_tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.as_tensor(labels)


def trained_cnn(images: Tensor, labels: Tensor, epochs: int = 6, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    # A fixture of a whole module comes before the one that sets this.
    torch.set_num_threads(1)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(32, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(epochs):
        for x, y in DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model

"""A matrix of directions by directions as a picture, with axes, numbers and a scale where matplotlib is installed."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from eigen_lightning.report.plots import blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERED_UP_TO = 12
"""Directions up to which every cell holds its number: beyond, the digits would touch."""

LEAST_SHOWN = 0.005
"""Values below are written as 0, not as 0.00."""

# From white to a deep blue: equal steps look equal, and it prints.
LOW, HIGH = (1.0, 1.0, 1.0), (0.05, 0.2, 0.5)


def heat_map(matrix: Float[Tensor, "K K"], title: str) -> UInt8[Tensor, "3 height width"]:
    """A matrix with entries from 0 to 1 as a picture whose colors mean the same in every epoch.

    Args:
        matrix: rows and columns are directions.
        title: what an entry is; shown only where matplotlib is installed, like everything but the colors.
    """
    values = matrix.detach().double().cpu().numpy()
    return annotated(values, title) if find_spec("matplotlib") else plain(values)


def plain(values: Float[np.ndarray, "K K"], least_side: int = 256) -> UInt8[Tensor, "3 side side"]:
    """Each entry a square of whole pixels."""
    low, high = (np.array(color)[:, None, None] for color in (LOW, HIGH))
    pixels = max(1, -(-least_side // len(values)))
    picture = (low + (high - low) * values.clip(0, 1)).repeat(pixels, 1).repeat(pixels, 2)
    return torch.from_numpy((255 * picture).round().astype(np.uint8))


def annotated(values: Float[np.ndarray, "K K"], title: str) -> UInt8[Tensor, "3 height width"]:
    """The figure as numbers of pixels."""
    canvas: Any = heat_map_figure(values, title).canvas
    canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy()).permute(2, 0, 1)


def heat_map_figure(values: Float[np.ndarray, "K K"], title: str) -> "Figure":
    """Axes with the directions' numbers, a scale of colors and, for few directions, the value in each cell."""
    figure = blank(5, 4.4)
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import MaxNLocator

    axes = figure.add_subplot()
    shown = axes.imshow(values, cmap=LinearSegmentedColormap.from_list("depth", [LOW, HIGH]), vmin=0, vmax=1)
    figure.colorbar(shown, ax=axes, fraction=0.046)
    axes.set_title(title, fontsize=10)
    axes.set(xlabel="direction", ylabel="direction")
    count = len(values)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(min(count, NUMBERED_UP_TO), integer=True))
    if count <= NUMBERED_UP_TO:
        for (row, column), value in np.ndenumerate(values):
            color = "white" if value > 0.5 else "black"
            text = f"{value:.2f}" if value >= LEAST_SHOWN else "0"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=10 if count <= 8 else 7)
    return figure

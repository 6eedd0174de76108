"""A toy model's hidden space as a picture: where its features point, and how each direction moves them."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

SIDE, MARGIN, FONT = 900, 60, 36
LEGEND = 240
"""Pixels beside the square for the directions' names."""

REACH = 0.3
"""How far along each direction the features are moved, in its unit norm."""

COLORS = ("#1f5fa8", "#b3501e", "#2f7d4f", "#7a4fa3", "#8a6d00", "#a33b6b", "#2b7f8a", "#5a5a5a")


def hidden_space(
    W: Float[Tensor, "hidden features"], moved: Float[Tensor, "K hidden features"]
) -> UInt8[Tensor, "3 height width"]:
    """The columns of W as spokes with their numbers, and where each direction moves their tips, a color a direction.

    With more than two hidden dimensions, the two along which the features spread most. All that is drawn fits.

    Args:
        W: the embedding.
        moved: the directions' parts in W.
    """
    from PIL import Image, ImageDraw, ImageFont

    if len(W) > 2:
        plane = torch.linalg.svd(W, full_matrices=False)[0][:, :2].T
        W, moved = plane @ W, torch.einsum("ph,khf->kpf", plane, moved)
    elif len(W) < 2:
        W, moved = torch.cat([W, torch.zeros_like(W)]), torch.cat([moved, torch.zeros_like(moved)], 1)
    image = Image.new("RGB", (SIDE + LEGEND, SIDE), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(FONT)
    furthest = torch.cat([W[None], W + REACH * moved, W - REACH * moved]).norm(dim=1).amax(0)
    scale = (SIDE / 2 - 1.5 * MARGIN) / float(furthest.max().clamp_min(1e-12))

    def at(point: Tensor) -> tuple[float, float]:
        return SIDE / 2 + scale * float(point[0]), SIDE / 2 - scale * float(point[1])

    for index, column in enumerate(W.T):
        draw.line([(SIDE / 2, SIDE / 2), at(column)], fill="#888888", width=4)
        for k, direction in enumerate(moved):
            step = REACH * direction[:, index]
            draw.line([at(column - step), at(column + step)], fill=COLORS[k % len(COLORS)], width=7)
        outwards = column / column.norm().clamp_min(1e-12)
        draw.text(at(outwards * (furthest[index] + MARGIN / scale)), str(index), fill="black", font=font, anchor="mm")
    # As many as fit.
    for k in range(min(len(moved), int(SIDE / FONT / 1.25))):
        place = (SIDE, (k + 0.5) * 1.25 * FONT)
        draw.text(place, f"direction {k}", fill=COLORS[k % len(COLORS)], font=font, anchor="lm")
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)

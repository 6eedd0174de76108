"""A toy model's hidden space as a picture: where its features point, and how each direction moves them."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

SIDE = 480
COLORS = ("#1f5fa8", "#b3501e", "#2f7d4f", "#7a4fa3", "#8a6d00", "#a33b6b", "#2b7f8a", "#5a5a5a")


def hidden_space(
    W: Float[Tensor, "hidden features"], moved: Float[Tensor, "K hidden features"], shown: list[int]
) -> Float[Tensor, "3 side side"]:
    """The columns of W as spokes, and from each tip where a direction moves it, a color a direction.

    With more than two hidden dimensions, the two along which the features spread most.

    Args:
        W: the embedding.
        moved: the directions' parts in W.
        shown: which of them to draw.
    """
    from PIL import Image, ImageDraw

    if len(W) > 2:
        plane = torch.linalg.svd(W, full_matrices=False)[0][:, :2].T
        W, moved = plane @ W, torch.einsum("ph,khf->kpf", plane, moved) if len(moved) else moved
    elif len(W) < 2:
        W, moved = torch.cat([W, torch.zeros_like(W)]), torch.cat([moved, torch.zeros_like(moved)], 1)
    image = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(image)
    scale = SIDE / 2.6 / float(W.norm(dim=0).max().clamp_min(1e-12))

    def at(point: Tensor) -> tuple[float, float]:
        return SIDE / 2 + scale * float(point[0]), SIDE / 2 - scale * float(point[1])

    for index, column in enumerate(W.T):
        draw.line([(SIDE / 2, SIDE / 2), at(column)], fill="#888888", width=2)
        draw.text(at(column * 1.12), str(index), fill="black", anchor="mm")
        for k in shown:
            draw.line([at(column), at(column + 0.3 * moved[k, :, index])], fill=COLORS[k % len(COLORS)], width=3)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255

"""What a person sees of an input that is a tensor: numbers, an image, a series, or its shape and range."""

import base64
import io
from typing import Any

import torch
from torch import Tensor

from eigen_lightning.run.tensor_tree import TensorTree

MOST_NUMBERS = 64
"""Numbers of a vector that are shown one by one."""

POINTS = 200
"""Points of a series."""

LEAST_SIDE = 4
LARGEST_SIDE = 256
"""Pixels a side of what is taken for an image, and of what is drawn of it."""


def described(inputs: Tensor | TensorTree) -> dict[str, Any]:
    """One sample as JSON-able values.

    Args:
        inputs: of one sample, without batch dimension.

    Returns:
        ``input``, the numbers of a short vector; otherwise ``kind`` (``image``, ``series`` or ``tensor``) and
        ``summary``, shape and range in a few words; for an image ``png`` in base64 and for a series ``values``, at most
        200 points of its first channel.
    """
    if isinstance(inputs, TensorTree):
        return _described_tree(inputs)
    numbers = inputs.detach().cpu()
    if numbers.ndim <= 1 and numbers.numel() <= MOST_NUMBERS:
        return {"input": _rounded(numbers.reshape(-1))}
    if not numbers.numel() or numbers.is_complex():
        return {"kind": "tensor", "summary": f"tensor {_shape(numbers)}"}
    numbers = numbers.float()
    image = _as_image(numbers)
    if image is not None:
        return {"kind": "image", "summary": f"image {_summary(numbers)}", "png": _png(image)}
    if numbers.ndim <= 2:
        channel = numbers.reshape(len(numbers), -1)[:, 0]
        step = -(-len(channel) // POINTS)
        return {"kind": "series", "summary": f"series {_summary(numbers)}", "values": _rounded(channel[::step])}
    return {"kind": "tensor", "summary": f"tensor {_summary(numbers)}"}


def _described_tree(tree: TensorTree) -> dict[str, Any]:
    parts = [described(part) for part in tree.parts]
    names = tree.names or tuple(map(str, range(len(parts))))
    shown = [part.get("summary") or str(part["input"]) for part in parts]
    summary = ", ".join(f"{name}: {text}" for name, text in zip(names, shown, strict=True))
    # Of several parts the first picture is drawn.
    drawn = next((part for part in parts if part.get("kind") in ("image", "series")), {"kind": "tensor"})
    return {**drawn, "summary": summary}


def _as_image(numbers: Tensor) -> Tensor | None:
    """``[height, width]`` or ``[height, width, 3]``, where a tensor is likely one; None otherwise."""
    if numbers.ndim == 2 and numbers.shape[0] == numbers.shape[1] >= 2 * LEAST_SIDE:
        return numbers
    if numbers.ndim != 3:
        return None
    if numbers.shape[0] in (1, 3) and min(numbers.shape[1:]) >= LEAST_SIDE:
        return numbers[0] if numbers.shape[0] == 1 else numbers.permute(1, 2, 0)
    if numbers.shape[2] in (1, 3) and min(numbers.shape[:2]) >= LEAST_SIDE:
        return numbers[..., 0] if numbers.shape[2] == 1 else numbers
    return None


def _png(image: Tensor) -> str:
    """Black at its least number and white at its greatest, in base64."""
    from PIL import Image

    image = image.nan_to_num()
    low, high = image.min(), image.max()
    bytes_ = ((image - low) * (255 / (high - low).clamp_min(1e-12))).round().to(torch.uint8)
    picture = Image.fromarray(bytes_.numpy())
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return base64.b64encode(content.getvalue()).decode()


def _summary(numbers: Tensor) -> str:
    return f"{_shape(numbers)}, {float(numbers.min()):.3g} to {float(numbers.max()):.3g}"


def _shape(numbers: Tensor) -> str:
    return "×".join(map(str, numbers.shape))


def _rounded(numbers: Tensor) -> list[float]:
    return [value if isinstance(value, int) else round(value, 4) for value in numbers.tolist()]

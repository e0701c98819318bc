"""Decoding: from encoded images to tensors."""

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor


def decode_image(encoded: Any, channels: int, *, name: str, side: int | None = None) -> Tensor:
    """The pixels of an image, uint8 (C, H, W).

    Args:
        encoded: A PNG or JPEG, as bytes, as the hub's struct {bytes, path}, or as opened by PIL.
        channels: 1 for gray, 3 for RGB.
        name: Name of the image, for the error's message.
        side: Crop the image to its central square and resize it bicubically to this many pixels; None leaves its size.

    Raises:
        ValueError: If the image cannot be decoded.
    """
    from PIL import Image, ImageOps

    data = encoded["bytes"] if isinstance(encoded, dict) else encoded
    try:
        opened = data if isinstance(data, Image.Image) else Image.open(io.BytesIO(data))
        image = opened.convert("L" if channels == 1 else "RGB")
    except (OSError, TypeError) as error:
        raise ValueError(f"{name} cannot be decoded ({error}): copy the data again") from None
    if side is not None:
        square = min(image.size)
        image = ImageOps.fit(image, (square, square)).resize((side, side))
    return torch.from_numpy(np.array(image)).view(image.height, image.width, channels).permute(2, 0, 1)

"""Converts camera messages to small square RGB images."""

from __future__ import annotations

from typing import Any

import imageio.v3 as imageio
import numpy as np
import torch
import torch.nn.functional as F

from lib.ingest.report import UnusableError

# Encodings of sensor_msgs/Image: bytes per channel, number of channels, and the indices of the
# channels R, G and B.
# https://github.com/ros2/common_interfaces: sensor_msgs/include/sensor_msgs/image_encodings.hpp
ENCODINGS: dict[str, tuple[int, int, list[int]]] = {
    "rgb8": (1, 3, [0, 1, 2]),
    "bgr8": (1, 3, [2, 1, 0]),
    "rgba8": (1, 4, [0, 1, 2]),
    "bgra8": (1, 4, [2, 1, 0]),
    "mono8": (1, 1, [0, 0, 0]),
    "mono16": (2, 1, [0, 0, 0]),
}


def colourfulness(message: Any) -> int:
    """Ranks cameras: 3 for colour, 2 for grey, 1 for 16-bit grey (often depth), 0 for unreadable.

    Args:
        message: sensor_msgs/Image or CompressedImage.
    """
    if hasattr(message, "format"):
        return 0 if "compressedDepth" in message.format else 3
    size, channels, _ = ENCODINGS.get(message.encoding, (0, 0, []))
    return 3 if channels > 1 else {1: 2, 2: 1}.get(size, 0)


def decode(message: Any) -> np.ndarray:
    """Returns the image of a camera message, (H, W, 3) uint8 RGB.

    Args:
        message: sensor_msgs/Image or CompressedImage.

    Raises:
        UnusableError: If its encoding is not supported or its data do not match its size.
    """
    return _compressed(message) if hasattr(message, "format") else _raw(message)


def _raw(message: Any) -> np.ndarray:
    height, width, step = message.height, message.width, message.step
    if message.encoding not in ENCODINGS:
        raise UnusableError(
            f"image encoding {message.encoding!r} is not read (only {', '.join(ENCODINGS)}); "
            "name another topic, or none, in phase1_ros.image_topic"
        )
    size, channels, rgb = ENCODINGS[message.encoding]
    used = width * channels * size
    data = np.asarray(message.data, np.uint8)
    if not used or not height or step < used or len(data) < step * height:
        raise UnusableError(
            f"an image of {width}x{height} {message.encoding}, step {step}, has {len(data)} bytes"
        )
    rows = data[: step * height].reshape(height, step)[:, :used]  # rows may be padded
    pixels = rows.reshape(height, width, channels, size)
    # Takes the high byte of 16-bit values: the brightness scale is the full range of the sensor
    # and is not adapted to the single image.
    return pixels[..., 0 if message.is_bigendian else -1][..., rgb]


def _compressed(message: Any) -> np.ndarray:
    data = np.asarray(message.data, np.uint8).tobytes()
    try:
        image = imageio.imread(data, plugin="pillow", index=0)
    except Exception as error:  # Broken bytes can raise any kind of error in Pillow.
        raise UnusableError(
            f"a compressed image ({message.format!r}, {len(data)} bytes) cannot be decoded: "
            f"{error.__cause__ or error}"
        ) from None
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    elif image.dtype == bool:
        image = image.astype(np.uint8) * 255
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] > 4:
        raise UnusableError(
            f"a compressed image ({message.format!r}) decodes to {image.dtype} pixels"
        )
    # The image is grey, grey with alpha, RGB or RGB with alpha.
    return image[..., :3] if image.shape[-1] >= 3 else image[..., [0, 0, 0]]


def square(image: np.ndarray, size: int) -> np.ndarray:
    """Returns the centre square of an image, resized to (size, size, 3) uint8.

    Each new pixel is the mean of the area it covers, so that fine texture does not alias.

    Args:
        image: (H, W, 3) uint8.
        size: Width and height of the result, pixels.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    crop = np.ascontiguousarray(image[top : top + side, left : left + side])
    if side == size:
        return crop
    pixels = torch.from_numpy(crop).permute(2, 0, 1)[None].float()
    small = F.interpolate(pixels, (size, size), mode="area")[0].permute(1, 2, 0)
    return small.round().to(torch.uint8).numpy()

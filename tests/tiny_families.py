"""Every tiny random model beyond the plain U-Net."""

import tiny_image as tiny_image
import tiny_video as tiny_video
import tiny_vision as tiny_vision
from tiny_family import FAMILIES, FRAMES, build, predict, strengthened
from tiny_family import H as H
from tiny_family import W as W

__all__ = ["FAMILIES", "FRAMES", "JOINT", "TRANSFORMERS", "VIDEO_UNETS", "H", "W", "build", "predict", "strengthened"]

TRANSFORMERS = [name for name, tiny in FAMILIES.items() if tiny.grid is not None]
VIDEO_UNETS = [name for name, tiny in FAMILIES.items() if tiny.grid is None]
JOINT = [name for name, tiny in FAMILIES.items() if tiny.joint]

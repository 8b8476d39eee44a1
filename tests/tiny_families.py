"""Every tiny random model beyond the plain U-Net."""

import tiny_audio as tiny_audio
import tiny_controlnets as tiny_controlnets
import tiny_flux_like as tiny_flux_like
import tiny_image as tiny_image
import tiny_image_joint as tiny_image_joint
import tiny_image_unets as tiny_image_unets
import tiny_single_stream as tiny_single_stream
import tiny_two_streams as tiny_two_streams
import tiny_video as tiny_video
import tiny_video_joint as tiny_video_joint
import tiny_video_other as tiny_video_other
import tiny_vision as tiny_vision
from tiny_family import FAMILIES, FRAMES, build, predict, strengthened
from tiny_family import H as H
from tiny_family import W as W

__all__ = ["FAMILIES", "FRAMES", "JOINT", "TRANSFORMERS", "VIDEO_UNETS", "H", "W", "build", "predict", "strengthened"]

TRANSFORMERS = [name for name, tiny in FAMILIES.items() if tiny.grid is not None]
VIDEO_UNETS = [name for name, tiny in FAMILIES.items() if tiny.title.startswith("AnimateDiff")]
JOINT = [name for name, tiny in FAMILIES.items() if tiny.joint]

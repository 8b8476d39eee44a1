"""What merging adds to the motion of a video."""

from torch import Tensor


def flicker(video: Tensor, base: Tensor) -> float:
    """Mean absolute difference between the changes of two (F, 3, H, W) uint8 videos from frame to frame, in grey levels of 255.

    The mean over pixels and steps of |(v[t + 1] - v[t]) - (b[t + 1] - b[t])|: how much the error, v - b, changes from frame to
    frame. Motion that both videos have cancels, at the same place and time, and so does an error that stands still. The absolute
    difference of consecutive frames is the temporal flickering of Huang et al. (2024), arXiv 2311.17982, which asks for videos
    that stand still; to take it relative to a reference, without warping by an estimated flow, is after the dtSSD of Erofeev et
    al. (2015), "Perceptually motivated benchmark for video matting".

    Raises:
        ValueError: the videos have different shapes, or fewer than two frames.

    >>> import torch
    >>> base = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    >>> flickering = base.clone()
    >>> flickering[1] = 4
    >>> flicker(flickering, base), flicker(base + 4, base)
    (4.0, 0.0)
    """
    if video.shape != base.shape or len(video) < 2:
        shapes = " and ".join(str(tuple(each.shape)) for each in (video, base))
        raise ValueError(f"flicker: expected two videos of one shape and at least 2 frames, got {shapes}")
    return float((video.double() - base.double()).diff(dim=0).abs().mean())

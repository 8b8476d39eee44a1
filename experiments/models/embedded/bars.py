"""The requirements that the embedded models share, read from the measures of ``evaluate``."""

from collections.abc import Callable

from .recipe import Bar, Measures

Read = Callable[[Measures], tuple[str, bool | None]]
KID, SHARE, STEP = 0.06, 0.6, 0.2
"""KID, at most; the real images' own R@1, at least; the step of the instrument from r = 0.25 to 0.5, at most."""


def named(what: str, n: int, least: int) -> Bar:
    """How many a viewer who has not seen the prompts named right on the sheet."""

    def read(measures: Measures) -> tuple[str, bool | None]:
        right = measures["named"]
        return ("not asked yet", None) if right is None else (str(right), right >= least)

    return Bar(what, str(n), read, str(least))


def quality(n: str) -> tuple[Bar, ...]:
    """KID with its floor, the distance to the nearest real image, and the text score of seen and of held-out pairs."""
    return (
        Bar("KID (EfficientNet-Lite0) against real images", n, _kid, f"at most {KID}"),
        Bar("feature distance to the nearest real image, median", n, _nearest),
        Bar("R@1 among 100 concepts, seen pairs, as a share of the real images' own", n, _share("seen", SHARE), f"{SHARE}"),
        Bar("the same, held-out pairs", "", _share("held out", None)),
    )


def instrument() -> tuple[Bar, ...]:
    """Whether the feature distance grows with ToMeSD's ratio, and what share of a step of it the prompts detect."""
    detect = "smallest change in it that 64 prompts detect, by ratio, as a share of the step from r = 0.25 to 0.5"
    return (
        Bar("feature distance to the base at ToMeSD's r, with log sizes", "64", _monotone, "monotone"),
        Bar(detect, "64", _detectable, f"at most {STEP:.0%}"),
    )


def decibels(what: str, read: Callable[[Measures], float]) -> Bar:
    """PSNR of the autoencoder alone, on what it never saw."""
    return Bar(what, "100", lambda measures: (f"{read(measures):.1f} dB", None))


def seconds(what: str, most: float) -> Bar:
    """Time of one image or video."""

    def read(measures: Measures) -> tuple[str, bool | None]:
        value = measures[f"seconds per {what}"]
        return f"{value:.1f} s", value <= most

    return Bar(f"one {what}", "3", read, f"at most {most:g} s")


def _kid(measures: Measures) -> tuple[str, bool | None]:
    kid = measures["seen"]["kid"]
    interval, floor = (
        f"[{kid['low']:.3f}, {kid['high']:.3f}]",
        f"{kid['floor_n']} real images against the others {kid['floor']:.3f}",
    )
    return f"{kid['value']:.3f} {interval}; {floor}", kid["value"] <= KID


def _nearest(measures: Measures) -> tuple[str, bool | None]:
    own, others = (
        measures["seen"][key] for key in ("distance to the nearest training image", "of training images to each other")
    )
    return f"{own:.3f} (real images to each other: {others:.3f})", None


def _share(of: str, least: float | None) -> Read:
    def read(measures: Measures) -> tuple[str, bool | None]:
        value, low, high = measures[of]["share of real"]
        own, real = measures[of]["r@1"][0], measures[of]["real r@1"][0]
        return (
            f"{value:.2f} [{low:.2f}, {high:.2f}] ({own:.2f}; real images {real:.2f})",
            None if least is None else value >= least,
        )

    return read


def _monotone(measures: Measures) -> tuple[str, bool | None]:
    found = measures["instrument"]
    if "skipped" in found:
        return f"not measured: {found['skipped']}", None
    values = (f"{middle:.4f} at {ratio}" for ratio, (middle, _, _) in found["feature distance"].items())
    return ", ".join(values), found["monotone"]


def _detectable(measures: Measures) -> tuple[str, bool | None]:
    found = measures["instrument"]
    if "skipped" in found:
        return "not measured", None
    share = found["detectable share of the step"]["by ratio"]["step"]
    return f"{share:.1%}", share <= STEP

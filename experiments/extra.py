"""Whether the packages of the extra ``experiments`` are installed; imports none of them."""

import re
from importlib.metadata import PackageNotFoundError, requires, version

PACKAGE, EXTRA = "mergekit-diff", "experiments"


def check_extra(command: str) -> None:
    """Refuse a command whose packages are missing.

    Args:
        command: what the message calls it, such as "run".

    Raises:
        ValueError: says what is missing and how to get it, in one line.
    """
    missing = [name for name in _packages() if not _is_installed(name)]
    if missing:
        raise ValueError(f"{command} needs the extra: pip install '{PACKAGE}[{EXTRA}]' (missing: {', '.join(missing)})")


def _packages() -> list[str]:
    """The packages of the extra, as the installed metadata lists them; none where the source is used without installing it."""
    try:
        lines = requires(PACKAGE) or []
    except PackageNotFoundError:
        return []
    return [re.split(r"[^\w.-]", line)[0] for line in lines if re.search(rf"extra == ['\"]{EXTRA}['\"]", line)]


def _is_installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False

"""Where a result comes from: versions, processor and commit."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

PACKAGES = ("mergekit-diff", "torch", "diffusers", "transformers", "torchmetrics", "numpy")


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide a result."""
    installed = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            installed[package] = "not installed"
    return installed


def processor() -> str:
    """The name of the CPU: from the kernel on Linux, elsewhere from Python."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def git_commit() -> str | None:
    """The commit of the source tree, with "+" if it has changes; None for an installed package."""
    here = Path(__file__).resolve().parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return commit + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    call = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20, check=True)
    return call.stdout.strip()

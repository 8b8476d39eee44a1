"""Where the tokens of every site are in the current call, read from the arguments of the modules around the blocks."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .arguments import Signature
from .hooks import line
from .sites import Layout, Site

Reader = Callable[[Mapping[str, Any]], Layout]


class Layouts:
    """The layouts of a session's sites.

    Those that a denoiser's own arguments decide are read before it runs, so that a compiled call knows them; those of modules
    inside it, while it runs.

    Args:
        sites: of the session.
        whole: whether blocks run on merged tokens as a whole.
        span: how many blocks share them.
    """

    def __init__(self, sites: Iterable[Site], whole: bool = False, span: int = 1) -> None:
        sites = list(sites)
        self._read: dict[nn.Module, dict[Reader, Layout | None]] = {}
        returned = {name: "would return merged tokens" for site in sites for name in site.whole_refuses if whole}
        added = {name: "is added to the tokens between blocks" for site in sites for name in site.between if span > 1}
        self._refused = returned | added
        for site in sites:
            if site.frame is not None:
                self._read.setdefault(site.frame, {})[site.layout] = None

    def attach(self, models: Iterable[nn.Module]) -> list[RemovableHandle]:
        """Register a hook on every frame that is not a denoiser itself."""
        inner = [frame for frame in self._read if all(frame is not model for model in models)]
        return [frame.register_forward_pre_hook(self._hook(frame), with_kwargs=True) for frame in inner]

    def begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Layout | None, ...]:
        """A denoiser is called: read what its arguments decide, and return it."""
        if model in self._read:
            self._hook(model)(model, args, kwargs)
        return tuple(self._read.get(model, {}).values())

    def of(self, site: Site, x: Tensor) -> Layout:
        """The layout of a block's (B, L, C) input."""
        layout = None if site.frame is None else self._read[site.frame][site.layout]
        return line(x) if layout is None else layout

    def _hook(self, frame: nn.Module) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        readers, signature = self._read[frame], Signature(frame)

        def on_frame(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            arguments = signature.read(args, kwargs)
            for name, why in self._refused.items():
                if arguments.get(name):
                    raise ValueError(f"role 'block': expected no '{name}', which {why}; leave it out")
            for reader in readers:
                readers[reader] = reader(arguments)

        return on_frame

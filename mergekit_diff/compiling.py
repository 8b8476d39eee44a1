"""A denoiser that is compiled for the duration of a session."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .ledger import Call, Place
from .sites import Layout
from .turn import Tokens
from .windows import keep_constant

MAX_GRAPHS = 64  # of one compiled session; torch's own limit is 8
Visits = list[tuple[Place, Tokens]]
Inputs = tuple[Any, ...]


class Compiled:
    """A model whose ``forward`` is compiled until it is put back.

    A graph works on tensors alone, so which plans are due is settled before each call. The places where plans are needed are
    learned from the first call with inputs of new shapes and layouts, which runs eagerly.

    Args:
        model: the denoiser.
        is_eager: whether the current call must run eagerly.
        options: of ``torch.compile``; by default ``fullgraph=True`` and ``dynamic=False``.
    """

    def __init__(self, model: nn.Module, is_eager: Callable[[], bool], options: Mapping[str, Any]) -> None:
        keep_constant()
        eager = model.forward
        compiled = torch.compile(eager, **{"fullgraph": True, "dynamic": False, **options})

        @functools.wraps(eager)
        def forward(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            if is_eager():
                return eager(*args, **kwargs)
            with torch._dynamo.config.patch(recompile_limit=MAX_GRAPHS):
                return compiled(*args, **kwargs)

        self._model, self._own = model, vars(model).get("forward")
        self._visits: dict[Any, Visits] = {}
        model.forward = forward

    def visits(self, inputs: Inputs) -> Visits:
        """The places that a call with inputs of these shapes and layouts reaches; none before the first one."""
        return self._visits.get(inputs, [])

    def learn(self, inputs: Inputs, calls: Iterable[Call]) -> None:
        """Remember which places a call reached."""
        self._visits[inputs] = [(call.place, call.tokens) for call in calls]

    def put_back(self) -> None:
        """Restore the model's ``forward``, also if other code had replaced it before."""
        del self._model.forward
        if self._own is not None:
            self._model.forward = self._own


def inputs_of(layouts: tuple[Layout | None, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """What of a call decides which plans it needs: shapes alone do not tell 32x64 tokens from 64x32."""
    return layouts, tuple((t.shape, t.dtype, t.device) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor))

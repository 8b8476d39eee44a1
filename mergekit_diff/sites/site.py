"""A site as metadata: which block, where its tokens are, and which arguments follow them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..registry import one_of
from .layout import Cached, Layout, Rows, as_they_are, spatial

ROLES = ("self_attention", "key_value", "cross_attention", "feed_forward", "block")


@dataclass(frozen=True)
class Site:
    """A transformer block whose tokens can be merged.

    Args:
        name: unique in the model, as in ``named_modules``.
        block: the block; plans are made from its tokens (B, L, C): its first argument or the one named ``argument``, or what
            ``tokens`` makes of it.
        roles: for "self_attention", "cross_attention" and "feed_forward" the submodule whose (B, L, C) input is merged and
            whose output is unmerged, or several of them. "key_value" hooks those of "self_attention". "block" is the block
            itself, if it is ``x + f(x)``: then x + unmerge(f(m) - m) runs all of it on merged tokens m.
        frame: the module from whose arguments the layout is read; None for a line of N tokens.
        layout: reads it from the frame's arguments by name, the first one first.
        argument: the block's argument with the tokens, if not the first.
        reads: the names that ``layout`` needs.
        rows: arguments of the block or its submodules with a row for every token.
        tokens: makes (B, L, C) tokens of the block's argument, where that is something else, such as an image (B, C, h, w);
            such a block cannot offer "block".
        outputs: where tokens are, if an attention returns several tensors.
        output: where they are, if the block does.
        stage: "down", "mid" or "up" of a U-Net, else None.
        level: 0 for the finest grid that has attention in the model, 1 for the next.
        key_value: the argument by which the self-attention takes tokens for its keys and values. None: keys and values merge
            inside ``scaled_dot_product_attention``, and log sizes are added there.
        more_keys: whether other tokens, such as text, give keys and values to the self-attention but no queries.
        key_value_maps: the submodules of an attention that make its keys and values.
        key_bias: the argument by which the self-attention takes (B, 1, keys) numbers that are added to its scores; None where it
            has no scores, such as linear attention.
        joint: whether other tokens, such as text, take part in the self-attention.
        read_by: attentions of the block in which other tokens attend to the site's: with "block", their keys have log sizes where
            those of the self-attention have.
        rotary: whether it rotates queries and keys by their position.
        passes: arguments that are passed on unchanged, since they belong to other tokens than the site's.
        refuses: arguments that would be wrong on merged tokens, whatever their shape.
        first_run: roles whose submodule runs twice in a block, first on the site's tokens and then on others, which pass.
        whole_refuses: arguments of the frame that would be wrong if the whole block ran on merged tokens.
        without: reasons why this block does not offer a role.
        normalize: makes the input of the block's first attention from the block's, (B, N, C) to (B, N, C), where a norm of the
            tokens alone is between them; None where something else is, such as a norm that also reads the timestep.
        between: arguments of the frame that are added to the tokens between blocks.
        apart: why the block before cannot hand it merged tokens, such as "the model adds a control in between"; empty if it can.
        cache: of a causal model, the cache in which keys and values merge; "key_value" is then the only role.

    Raises:
        ValueError: an unknown role.

    >>> from torch import nn
    >>> block = nn.Sequential(nn.Linear(8, 8))
    >>> Site("blocks.0", block, roles={"feed_forward": block[0]}).level
    0
    """

    name: str
    block: nn.Module
    roles: Mapping[str, nn.Module | tuple[nn.Module, ...]]
    frame: nn.Module | None = None
    layout: Callable[[Mapping[str, Any]], Layout] = spatial
    argument: str | None = None
    reads: tuple[str, ...] = ()
    rows: tuple[Rows, ...] = ()
    tokens: Callable[[Tensor], Tensor] = as_they_are
    outputs: tuple[int, ...] = (0,)
    output: int = 0
    stage: str | None = None
    level: int = 0
    key_value: str | None = "encoder_hidden_states"
    more_keys: bool = False
    key_value_maps: frozenset[str] = frozenset({"to_k", "to_v"})
    key_bias: str | None = "attention_mask"
    joint: bool = False
    read_by: tuple[nn.Module, ...] = ()
    rotary: bool = False
    passes: frozenset[str] = frozenset({"encoder_hidden_states"})
    refuses: frozenset[str] = frozenset()
    first_run: frozenset[str] = frozenset()
    whole_refuses: frozenset[str] = frozenset()
    without: Mapping[str, str] = field(default_factory=dict)
    normalize: Callable[[Tensor], Tensor] | None = None
    between: frozenset[str] = frozenset()
    apart: str = ""
    cache: Cached | None = None

    def __post_init__(self) -> None:
        for role in (*self.roles, *self.without):
            one_of(role, ROLES, f"role of site {self.name}")

    def parts(self, role: str) -> tuple[nn.Module, ...]:
        """The submodules that a role runs on merged tokens; none if the site does not offer it."""
        part = self.roles.get("self_attention" if role == "key_value" else role, ())
        return part if isinstance(part, tuple) else (part,)

    def offers(self, role: str) -> bool:
        """Whether a role can be used here."""
        return role not in self.without and len(self.parts(role)) > 0

    def lacks(self, role: str) -> str:
        """Why a role cannot be used here."""
        return self.without.get(role, f"this block has no {role}")

    def shares(self, role: str) -> bool:
        """Whether a role needs one plan for all rows of a batch, because a table without a batch axis follows it."""
        return role in ("self_attention", "cross_attention", "block") and any(not rows.batched for rows in self.rows)

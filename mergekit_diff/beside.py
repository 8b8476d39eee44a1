"""What else a user may have on in diffusers: caches, and processors of attention, that some roles cannot be used with."""

from collections.abc import Iterable

from torch import nn

from .sites import Site


def caches(module: nn.Module) -> list[str]:
    """The names of hooks of diffusers on a module that may return what it returned in an earlier step."""
    registry = getattr(module, "_diffusers_hook", None)
    hooks = {} if registry is None else registry.hooks
    return [type(hook).__name__ for hook in hooks.values() if hasattr(hook, "new_forward") and _keeps(hook)]


def check_caches(site: Site, roles: Iterable[str]) -> None:
    """Refuse roles in which a cache would keep merged tokens, which mean nothing under a later step's plan.

    Args:
        site: where.
        roles: those that are used. "key_value" changes what happens inside an attention, not the tokens that it returns.

    Raises:
        ValueError: with the name of the cache's hook.
    """
    for role in roles:
        for part in site.parts(role) if role != "key_value" else ():
            for module in part.modules():
                for name in caches(module):
                    reason = f"{name} keeps merged tokens for steps with other plans; use other roles, or disable_cache()"
                    raise ValueError(f"{site.name} {role}: {reason}")


def check_processor(site: Site, attention: nn.Module) -> None:
    """Refuse processors that would ignore merged keys or log sizes, or could not compute them.

    Raises:
        ValueError: with what the attention has.
    """
    name = type(getattr(attention, "processor", None)).__name__
    if name.startswith("PAG"):  # perturbed attention guidance takes the rows of a batch apart, and keys from them alone
        raise ValueError(
            f"{site.name}: expected a processor that takes keys from elsewhere, got {name}; merge without key_value and log sizes"
        )
    if site.key_value is not None and getattr(attention, "fused_projections", False):
        raise ValueError(f"{site.name}: expected separate projections for key_value, got fused ones; unfuse_qkv_projections()")


def _keeps(hook: object) -> bool:
    return any(name in vars(hook) for name in ("state", "state_manager", "shared_state"))

"""What else a user may have on in diffusers: caches, and processors of attention, that some roles cannot be used with."""

from collections.abc import Iterable

from torch import nn

from .sites import Site


def reusing_hooks(module: nn.Module) -> list[str]:
    """The classes of hooks of diffusers on a module that may return what it returned in an earlier step."""
    registry = vars(module).get("_diffusers_hook")  # getattr is slow where a module has none
    hooks = {} if registry is None else registry.hooks
    return [type(hook).__name__ for hook in hooks.values() if hasattr(hook, "new_forward") and _keeps(hook)]


def check_caches(sites: Iterable[Site], roles: Iterable[str]) -> None:
    """Refuse roles in which a cache would keep merged tokens, which mean nothing under a later step's plan.

    Args:
        sites: where.
        roles: those that are used. "key_value" changes what happens inside an attention, not the tokens that it returns.

    Raises:
        ValueError: with the class of the cache's hook.
    """
    whole = [role for role in roles if role != "key_value"]
    for site in sites:
        for role in whole:
            for part in site.parts(role) if site.offers(role) else ():
                for name in (name for module in part.modules() for name in reusing_hooks(module)):
                    reason = f"{name} keeps merged tokens for steps with other plans; use other roles, or disable_cache()"
                    raise ValueError(f"{site.name} {role}: {reason}")


def check_processor(site: Site, attention: nn.Module, *, given: bool) -> None:
    """Refuse processors that would ignore merged keys or log sizes, or could not compute them.

    Args:
        site: where.
        attention: whose keys are merged or counted by their sizes.
        given: whether it is given merged tokens for its keys.

    Raises:
        ValueError: with what the attention has.
    """
    name = type(getattr(attention, "processor", None)).__name__
    if name.startswith("PAG"):  # perturbed attention guidance takes the batch apart, and keys from the tokens themselves
        raise ValueError(f"{site.name}: {name} cannot use merged keys or log sizes; use other roles, and proportional=False")
    if given and getattr(attention, "fused_projections", False):
        raise ValueError(f"{site.name} key_value: expected separate projections, got fused ones; unfuse_qkv_projections()")


def _keeps(hook: object) -> bool:
    return any(name in vars(hook) for name in ("state", "state_manager", "shared_state"))

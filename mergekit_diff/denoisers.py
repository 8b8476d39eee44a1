"""What a session merges in: one denoiser or two, their sites, and the roles that these offer."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .arguments import Signature, check_site
from .sites import ROLES, Family, Site, family_of, find_sites


@dataclass(frozen=True)
class Denoiser:
    """A model whose tokens merge.

    Args:
        model: the model.
        family: what is known of its class.
        signature: of its ``forward``.
        sites: all of them, in the order in which they run.
        scheduler: the name of its scheduler in the pipeline.
    """

    model: nn.Module
    family: Family
    signature: Signature
    sites: tuple[Site, ...]
    scheduler: str = "scheduler"

    @classmethod
    def of(cls, model: nn.Module, name: str) -> "Denoiser":
        """A model with its sites; their names begin with its own, if it has one.

        Raises:
            ValueError: its family is unknown, or its timestep has another name.
        """
        family, signature = family_of(model), Signature(model)
        if family.timestep not in (*signature.names, "timestep"):
            known = ", ".join(signature.names)
            raise ValueError(f"expected an argument '{family.timestep}' in forward of {type(model).__name__}, got {known}")
        sites = find_sites(model)
        if name:
            sites = [dataclasses.replace(site, name=f"{name}.{site.name}") for site in sites]
        return cls(model, family, signature, tuple(sites), "prior_scheduler" if name.startswith("prior_") else "scheduler")

    def timestep(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """The timestep of a call; None if it has none."""
        return self.signature.read(args, kwargs).get(self.family.timestep)

    def batch(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        """Rows of a call's first argument, a tensor or a list; 1 if it is neither."""
        first = next(iter(self.signature.read(args, kwargs).values()), None)
        return len(first) if isinstance(first, list) or (isinstance(first, Tensor) and first.dim() > 0) else 1

    def chosen(self, levels: int | None, roles: Sequence[str]) -> list[Site]:
        """The sites on the finest grids that offer any of the roles, with their metadata checked."""
        sites = [site for site in self.sites if levels is None or site.level < levels]
        sites = [site for site in sites if any(site.offers(role) for role in roles)]
        for site in sites:
            check_site(site, roles)
            if site.key_value is None and "key_value" in roles and "self_attention" in roles:
                raise ValueError(
                    f"{site.name}: expected 'key_value' or 'self_attention', got both; here keys merge inside the attention, "
                    "whose tokens would be merged already"
                )
        return sites


def offered(sites: Iterable[Site], named: Sequence[str] | None, default: Sequence[str]) -> tuple[str, ...]:
    """The roles of a session: those that the user named, or of the default ones those that the sites offer.

    Raises:
        ValueError: no site offers a role that was named.
    """
    sites = list(sites)
    possible = [role for role in ROLES if any(site.offers(role) for site in sites)]
    for role in named or ():
        if role not in possible:
            raise ValueError(f"expected a role of {', '.join(possible)}; got '{role}': {sites[0].lacks(role)}")
    roles = tuple(role for role in default if role in possible) if named is None else tuple(named)
    return roles or tuple(possible[:1])

"""The names of a module's arguments, whoever wrote its ``forward``."""

import gc
import inspect
import weakref

import pytest
from tiny_families import TRANSFORMERS, build
from torch import nn

from mergekit_diff import merging
from mergekit_diff.arguments import Signature
from mergekit_diff.sites import ROLES, family_of, find_sites


class Named(nn.Module):
    """Takes two arguments."""

    def forward(self, a, b=None):
        return a


def test_a_forward_put_on_one_module_is_read_there_alone():
    one, other = Named(), Named()
    one.forward = lambda x, *, y=None: x
    assert (Signature(one).names, Signature(other).names) == (("x", "y"), ("a", "b"))
    del one.forward
    assert Signature(one).names == ("a", "b")


def test_a_forward_that_hides_its_arguments_has_those_of_the_class():
    module = Named()
    module.forward = lambda *args, **kwargs: None
    assert Signature(module).names == ("a", "b")


def test_a_class_whose_forward_is_replaced_has_the_new_arguments(monkeypatch):
    assert Signature(Named()).names == ("a", "b")
    monkeypatch.setattr(Named, "forward", lambda self, z: z)
    assert Signature(Named()).names == ("z",)


def test_no_module_is_kept_alive_by_its_forward():
    module = Named()
    module.forward = lambda x, inside=module: inside
    Signature(module)
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None


def rename(patch, owner, method, argument):
    """Give a method the signature that another release could have."""
    known = inspect.signature(vars(owner).get(method, getattr(owner, method)))
    if argument not in known.parameters:
        return
    changed = [p.replace(name=f"{argument}_new") if p.name == argument else p for p in known.parameters.values()]

    def newer(self, *args, **kwargs):
        raise AssertionError("the session must not begin")

    newer.__signature__ = known.replace(parameters=changed)
    patch.setattr(owner, method, newer)


@pytest.mark.parametrize("name", [name for name in TRANSFORMERS if name != "latte"])  # whose sites name no argument
def test_a_release_that_renames_an_argument_is_told_with_its_class(name, monkeypatch):
    model, _ = build(name)
    family, site = family_of(model), find_sites(model)[0]
    role = next((role for role in ROLES if role != "block" and site.offers(role)), "block")
    places = [(family.timestep, [model], type(model))] if family.timestep != "timestep" else []  # which may be absent
    places += [(argument, [site.frame], type(site.frame)) for argument in site.reads if site.frame is not None]
    places += [(rows.argument, list(site.block.modules()), type(site.block)) for rows in site.rows]
    assert places
    for argument, modules, named in places:
        with monkeypatch.context() as patch:
            for owner in {type(module) for module in modules}:
                rename(patch, owner, "forward", argument)
            for owner in {type(module.processor) for module in modules if hasattr(module, "processor")}:
                rename(patch, owner, "__call__", argument)
            with pytest.raises(ValueError, match=rf"expected an argument '{argument}' in forward of .*\b{named.__name__}\b"):
                with merging(model, "retom", roles=role):
                    pass

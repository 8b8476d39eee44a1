"""The names of a module's arguments, whoever wrote its ``forward``."""

import gc
import weakref

from torch import nn

from mergekit_diff.arguments import Signature


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

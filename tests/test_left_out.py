"""Every model of diffusers is registered, or left out for a reason, so that a new release is noticed."""

import importlib
import inspect
import pkgutil

import pytest
from diffusers import ModelMixin
from left_out_image import IMAGE

VIDEO = pytest.importorskip("left_out_video").VIDEO


def classes():
    """Every class of a model in the packages of denoisers and ControlNets."""
    for kind in ("transformers", "unets", "controlnets"):
        package = importlib.import_module(f"diffusers.models.{kind}")
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            for each in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(each) and issubclass(each, ModelMixin) and each.__module__ == module.name:
                    yield each


def test_every_model_is_registered_or_left_out_for_a_reason(families):
    families.load_plugins()
    left_out = IMAGE | VIDEO
    names = {each.__name__: {c.__name__ for c in each.__mro__} for each in classes()}
    unknown = sorted(name for name, above in names.items() if name not in left_out and not above & families._FAMILIES.keys())
    assert not unknown, f"neither registered nor in tests/left_out_image.py or tests/left_out_video.py: {unknown}"
    assert not left_out.keys() - names.keys() and not left_out.keys() & families._FAMILIES.keys()
    assert not IMAGE.keys() & VIDEO.keys() and all("\n" not in reason for reason in left_out.values())

"""What a ControlNet adds between the blocks of a merged transformer still fits."""

import pytest
import torch
from tiny_controlnets import flux_controlnet, qwen_controlnet, sd3_controlnet
from tiny_families import build, predict, strengthened

from mergekit_diff import merging

PAIRS = {"flux": flux_controlnet, "sd3": sd3_controlnet, "qwen_image": qwen_controlnet}


@pytest.mark.parametrize("role", ("self_attention", "key_value", "block"))
@pytest.mark.parametrize("name", PAIRS)
def test_both_may_merge_in_their_own_sessions(name, role):
    model, inputs = build(name)
    control, arguments = PAIRS[name]()
    control = strengthened(control)

    def controlled():
        with torch.no_grad():
            added = dict(control(**arguments))
        if name == "sd3":
            added = {"block_controlnet_hidden_states": added["controlnet_block_samples"]}
        return predict(model, inputs | added)

    base, alone = controlled(), predict(model, inputs)
    with merging(model, "retom", ratio=0, roles=role), merging(control, "retom", ratio=0, roles=role):
        assert torch.equal(controlled(), base)
    with merging(model, "retom", window=2, roles=role, strict=True):
        merged = controlled()
        with merging(control, "retom", window=2, roles=role, strict=True):
            both = controlled()
    assert torch.equal(controlled(), base)
    outputs = [base, alone, merged, both]
    assert all(each.isfinite().all() and each.shape == base.shape for each in outputs)
    assert not any(torch.equal(a, b) for i, a in enumerate(outputs) for b in outputs[:i])

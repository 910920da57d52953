"""Rules of precision and compilation: known before the work begins, and harmless."""

import pytest
import torch

from kr_utils import generator, precision


def example(channels=3):
    network = torch.nn.Conv2d(channels, 5, 3, padding=1, bias=False)
    return network, (torch.zeros(2, channels, 8, 8),)


def test_the_estimate_counts_multiplications_and_additions_of_three_passes():
    network, batch = example()
    forward = 2 * (2 * 5 * 8 * 8) * (3 * 3 * 3)  # images, channels, pixels; a multiply-add is two operations
    expected = 3 * forward * 1000 / precision.TYPICAL_FLOPS["cpu"]
    assert precision.training_seconds(network, batch, 1000) == pytest.approx(expected)


def test_little_work_or_no_compiler_leaves_the_network_as_it_is(monkeypatch):
    network, batch = example()
    assert precision.compiled(network, batch, 10) is network
    monkeypatch.setattr(precision.shutil, "which", lambda name: None)
    assert precision.compiled(network, batch, 10**12) is network


def test_small_images_stay_in_float32():
    assert not precision.autocast("cpu", 8)._enabled
    assert precision.autocast("cpu", 28)._enabled == precision.autocast("cpu")._enabled


@pytest.mark.parametrize(
    ("amx", "avx512", "processor", "expected"),
    [
        (True, True, "vendor_id : GenuineIntel", True),
        (False, True, "vendor_id : GenuineIntel", False),  # the instructions are there, but no faster
        (False, True, "vendor_id : AuthenticAMD", True),
        (False, False, "vendor_id : AuthenticAMD", False),
        (False, False, "", False),
    ],
)
def test_bfloat16_is_used_where_it_multiplies_faster(monkeypatch, amx, avx512, processor, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(precision, "_processor", lambda: processor)
    assert precision._bfloat16_repays.__wrapped__() is expected


@pytest.mark.slow
def test_a_compiled_generator_learns_the_same(digits, monkeypatch):
    """Up to rounding: three steps, with and without compilation (without a compiler the rule itself is the test)."""
    losses, used = {}, []
    for name, threshold in (("eager", 1e9), ("compiled", 0)):
        monkeypatch.setitem(precision.REPAYS_SECONDS, "cpu", threshold)
        compiled = precision.compiled
        monkeypatch.setattr(generator, "compiled", lambda *a, f=compiled: used.append(f(*a)) or used[-1])
        model = generator.build(10, digits.train.images, width=16, levels=1, layers=1, fold=2, seed=0)
        training = generator.Training(steps=3, batch=32, lr=1e-3, ema_decay=0.9, label_dropout=0.1)
        losses[name] = generator.fit(model, digits.train, training, seed=0)
        monkeypatch.setattr(generator, "compiled", compiled)
        assert "_orig_mod" not in "".join(model.state_dict()), "the weights keep their names"
    if precision.shutil.which("g++") or precision.shutil.which("clang++"):
        assert used[0] is not used[1]
        assert isinstance(used[1], torch._dynamo.eval_frame.OptimizedModule)
    for one, two in zip(losses["eager"], losses["compiled"]):
        assert one["loss"] == pytest.approx(two["loss"], rel=0.02)

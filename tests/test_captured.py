"""Forward and backward pass as one CUDA graph: the same numbers; on a CPU nothing but `backward`."""

import copy
import dataclasses
import subprocess
import sys

import pytest
import torch
from conftest import RECIPE, ROOT

from kr_utils import captured, classifier, data, generator

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=gpu)]


def linear(device):
    network = torch.nn.Linear(3, 2).to(device)
    return network, captured.Gradients(lambda x, y: (network(x) - y).square().mean(), network.parameters())


@pytest.mark.parametrize("device", DEVICES)
def test_loss_and_gradients_are_those_of_backward(device):
    """Batches of two sizes, more of each than the warm-up takes; an old gradient is not added to."""
    network, gradients = linear(device)
    for k in range(4 * captured.WARM_UP):
        x, y = torch.randn(4 + k % 2, 3, device=device), torch.randn(4 + k % 2, 2, device=device)
        loss = gradients(x, y)
        found = [p.grad.clone() for p in network.parameters()]
        twin = copy.deepcopy(network)  # a computation of the network's own would stand in the way of the next capture
        wanted = (twin(x) - y).square().mean()
        assert loss.item() == pytest.approx(wanted.item())
        assert not loss.requires_grad
        for one, other in zip(found, torch.autograd.grad(wanted, [*twin.parameters()])):
            assert torch.allclose(one, other, atol=1e-6)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= 0.1 * parameter.grad
    assert (len(gradients.graphs) == 2) == (device == "cuda")


@gpu
@pytest.mark.parametrize("soft", [False, True])
def test_a_captured_training_is_the_eager_one_to_the_last_bit(digits, teacher, monkeypatch, soft):
    """75 and 76 images a batch; the Student also learns from a Teacher. The same convolutions every time, for once."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    split, val = (data.Split(part.images[:377], part.labels[:377]).to("cuda") for part in (digits.train, digits.val))
    training = classifier.Training(RECIPE, 4, classifier.Augmentation(1, erase=0.25))
    if soft:
        training = dataclasses.replace(training, teacher=copy.deepcopy(teacher).cuda(), temperature=4.0)
    found = []
    for warm_up in (captured.WARM_UP, 10**9):
        monkeypatch.setattr(captured, "WARM_UP", warm_up)
        model = classifier.build(10, 1, 8, 8, 0).cuda()
        found.append((classifier.fit(model, lambda epoch: split, val, training, seed=0), model.state_dict()))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1].values(), found[1][1].values()))


@gpu
def test_a_captured_generator_is_the_eager_one_to_the_last_bit(digits, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    training = generator.Training(30, 32, 2e-3, ema_decay=0.9, label_dropout=0.1, hflip=True)
    found = []
    for warm_up in (captured.WARM_UP, 10**9):
        monkeypatch.setattr(captured, "WARM_UP", warm_up)
        model = generator.build(10, digits.train.images, width=16, levels=1, layers=1, fold=2, seed=0).cuda()
        found.append((generator.fit(model, digits.train, training, seed=0), model.state_dict()))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1].values(), found[1][1].values()))


@gpu
def test_what_cannot_be_captured_is_computed_step_by_step(capsys):
    network = torch.nn.Linear(3, 2).cuda()

    def looks(x):
        loss = network(x).square().mean()
        return loss if loss.item() > 0 else -loss

    gradients = captured.Gradients(looks, network.parameters())
    for _ in range(captured.WARM_UP + 3):
        x = torch.randn(5, 3, device="cuda")
        with torch.no_grad():
            wanted = network(x).square().mean().item()
        assert gradients(x).item() == pytest.approx(wanted)
        assert network.weight.grad.abs().sum() > 0
    assert capsys.readouterr().out.count("no CUDA graph here (") == 1


@gpu
@pytest.mark.slow
def test_the_whole_graph_and_an_audit_run_on_a_gpu(tmp_path):
    command = [sys.executable, "run_all.py", "--profile", "smoke", "--audit", "2"]
    folders = ["--runs-dir", str(tmp_path / "runs"), "--figures-dir", str(tmp_path / "figures")]
    done = subprocess.run([*command, *folders], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    kept = [*(tmp_path / "runs").rglob("notebook.ipynb")]
    assert len(kept) == 11
    assert not [path for path in kept if "no CUDA graph here" in path.read_text()]

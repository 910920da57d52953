"""The classifier of every role (Teacher, real baseline, Student): a CIFAR-stem ResNet and its training loop."""

from __future__ import annotations

import copy
import functools
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from kr_utils import captured, metrics, resume
from kr_utils.data import Info, Split
from kr_utils.precision import autocast

ONE_ERROR = 0.6827  # the level of an interval of plus and minus one standard error


class Projection(nn.Linear):
    """A strided 1x1 convolution, without bias, as one matrix product over the channels.

    Not `nn.Conv2d`: with AVX-512, oneDNN's gradient of one can write outside its memory (torch 2.15 crashed).
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__(inputs, outputs, bias=False)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, outputs, H / stride, W / stride], rounded up."""
        return super().forward(x[:, :, :: self.stride, :: self.stride].movedim(1, -1)).movedim(-1, 1)


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2016, CIFAR variant, projection shortcut)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(Projection(inputs, outputs, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x), inplace=True)


class ResNet(nn.Module):
    """ResNet-(6n+2) for small images: three stages of n blocks, widths w, 2w, 4w.

    classes, channels : sizes of output and input; width : channels of the first stage (16 in the original ResNet-20,
    64 in GaFi); depth : 6n + 2, so 8, 14, 20, ...
    """

    def __init__(self, classes: int, channels: int, width: int = 16, depth: int = 20):
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth is {depth}; a CIFAR ResNet has 6n + 2 layers: 8, 14, 20, ...")
        self.config = {"classes": classes, "channels": channels, "width": width, "depth": depth}

        # Stem, then three stages that halve the sides and double the channels
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        inputs = width
        for stage in range(3):
            for block in range((depth - 2) // 6):
                outputs = width * 2**stage
                layers.append(Block(inputs, outputs, 2 if stage > 0 and block == 0 else 1))
                inputs = outputs

        # Mean over the image, then one linear layer
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of images float [N, C, H, W] as `normalise` makes them."""
        return self.head(self.features(x).mean((2, 3)))


def build(classes: int, channels: int, width: int, depth: int, seed: int) -> ResNet:
    """A freshly initialised ResNet; the same seed gives the same weights, the global state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNet(classes, channels, width, depth)


class Ensemble(nn.Module):
    """Several classifiers as one Teacher: its logits are the logarithm of their mean class probabilities."""

    def __init__(self, members: Iterable[ResNet]):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """log mean softmax [N, K], of images float [N, C, H, W] as `normalise` makes them."""
        log_p = torch.stack([F.log_softmax(member(x).float(), dim=1) for member in self.members])
        return log_p.logsumexp(0) - math.log(len(self.members))


def normalise(images: Tensor) -> Tensor:
    """uint8 [N, C, H, W] -> float in [-1, 1]."""
    return images.float().div_(127.5).sub_(1)


@dataclass(frozen=True)
class Recipe:
    """Network and optimiser of the real training; every Student follows it, so that only images and labels differ.

    width, depth : of the `ResNet`; batch : images per step; lr : the schedule's highest learning rate
    weight_decay : of SGD; erase : probability of random erasing, 0 to 1 (see `Augmentation`)
    """

    width: int
    depth: int
    batch: int
    lr: float
    weight_decay: float
    erase: float = 0.0

    @classmethod
    def from_budget(cls, budget: dict) -> Recipe:
        """The recipe in the Teacher's budget, given as a dict (as its manifest stores it)."""
        return cls(**{field.name: budget[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class Augmentation:
    """Label-keeping changes, drawn anew for every image of a batch.

    shift : largest translation in pixels (pad-and-crop); hflip, vflip : mirror with probability 1/2
    erase : probability of one grey rectangle of 2 % to 25 % of the area (random erasing, Zhong et al. 2020)
    """

    shift: int = 0
    hflip: bool = False
    vflip: bool = False
    erase: float = 0.0

    @classmethod
    def for_dataset(cls, info: Info, size: int, erase: float) -> Augmentation:
        """What this dataset's labels survive; the shift is an eighth of the side (4 pixels at 32)."""
        return cls(max(1, size // 8), info.hflip, info.vflip, erase)

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Augment uint8 [N, C, H, W] in whole-batch tensor operations; every random number from `rng`."""
        n, _, height, width = images.shape
        device = images.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=rng, device=device)

        # One gather does the crop and both flips: for every image, which source row and column to read.
        side = 2 * self.shift + 1
        padded = F.pad(images, [self.shift] * 4) if self.shift else images
        rows = torch.arange(height, device=device).expand(n, height)
        columns = torch.arange(width, device=device).expand(n, width)
        if self.vflip:
            rows = torch.where(uniform(n, 1) < 0.5, height - 1 - rows, rows)
        if self.hflip:
            columns = torch.where(uniform(n, 1) < 0.5, width - 1 - columns, columns)
        if self.shift:
            rows = rows + (uniform(n, 1) * side).long()
            columns = columns + (uniform(n, 1) * side).long()

        # Read all pixels at once
        index = torch.arange(n, device=device)[:, None, None]
        out = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

        # Random erasing: one grey rectangle
        if self.erase:
            area = (0.02 + 0.23 * uniform(n)) * height * width
            aspect = torch.exp((uniform(n) * 2 - 1) * 1.2)  # 0.3 to 3.3
            tall, wide = (area * aspect).sqrt(), (area / aspect).sqrt()
            top, left = uniform(n) * (height - tall), uniform(n) * (width - wide)

            # Which pixels lie in it, and which images have one
            y, x = torch.arange(height, device=device), torch.arange(width, device=device)
            in_rows = (y >= top[:, None]) & (y < (top + tall)[:, None])
            in_columns = (x >= left[:, None]) & (x < (left + wide)[:, None])
            hit = (uniform(n) < self.erase)[:, None, None] & in_rows[:, :, None] & in_columns[:, None, :]
            out = out.masked_fill(hit[:, None], 127)
        return out


@dataclass(frozen=True)
class Training:
    """How a classifier is trained, whatever its images: the same object for Teacher, short Students and Student.

    recipe : network and optimiser; epochs : over the training set, >= 1; augment : applied to every batch
    teacher : if given, targets are its softmax at `temperature`, computed on the augmented batch (GKD), mixed with
        the one-hot label at `hard_weight`
    temperature : T > 0 of the soft labels; hard_weight : share of the hard-label loss, 0 to 1
    """

    recipe: Recipe
    epochs: int
    augment: Augmentation
    teacher: nn.Module | None = None
    temperature: float = 1.0
    hard_weight: float = 0.0


def epochs_within(epochs: int, images: int, *, batch: int, least_steps: int = 0, most_steps: int = 0) -> int:
    """Epochs over so many training images: `epochs`, or the more that `least_steps` ask, or what `most_steps` allow.

    least_steps, most_steps : optimiser steps, each of `batch` images; 0 is no limit
    """
    each = max(1, images // batch)  # as `fit` cuts an epoch
    wanted = max(epochs, -(-least_steps // each))
    return max(1, min(wanted, most_steps // each)) if most_steps else wanted


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor, batch: int = 1024) -> Tensor:
    """Logits float [N, K] of uint8 images [N, C, H, W], in eval mode, without augmentation."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    logits = torch.cat([model(normalise(part.to(device))).float() for part in images.split(batch)])
    model.train(training)
    return logits


def accuracy(model: nn.Module, split: Split) -> float:
    """Share of `split` classified correctly, in [0, 1]."""
    return (predict(model, split.images).argmax(1).cpu() == split.labels.cpu()).double().mean().item()


def gkd_loss(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 1.0, hard_weight: float = 0.0
) -> Tensor:
    """Cross-entropy against the Teacher's probabilities, mixed with the hard-label loss at `hard_weight`.

    logits, teacher_logits : [N, K] of the same augmented batch; labels : int64 [N]. The factor T^2 keeps the gradient's
    size independent of the temperature (Hinton et al. 2015).
    """
    soft = F.softmax(teacher_logits / temperature, dim=1)
    loss = (1 - hard_weight) * temperature**2 * F.cross_entropy(logits / temperature, soft)
    return loss + hard_weight * F.cross_entropy(logits, labels) if hard_weight else loss


def sgd(parameters: Iterable[Tensor], lr: float, weight_decay: float, steps: int) -> tuple:
    """The optimiser and learning-rate schedule of `fit`."""
    optimiser = torch.optim.SGD(parameters, lr=lr, momentum=0.9, nesterov=True, weight_decay=weight_decay, foreach=True)
    total = steps + 1 + (steps == 9)  # at 10 the warm-up is one step long, and OneCycleLR divides by zero
    options = {"pct_start": 0.1, "cycle_momentum": False, "final_div_factor": 1e4}
    return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=total, **options)


def fit(
    model: nn.Module,
    epoch_data: Callable[[int], Split],
    val: Split | None,
    training: Training,
    *,
    seed: int,
    on_epoch: Callable[[dict], None] | None = None,
    state: resume.State | None = None,
) -> list[dict]:
    """Train in place; of the epochs that are as good as the best on validation within its noise, keep the latest.

    SGD with Nesterov momentum 0.9 (GaFi's optimiser); the learning rate warms up over the first tenth of all steps
    and falls to zero along a cosine (ours; GaFi drops it at 60 % and 80 %). As good is what the interval of one
    standard error around the best accuracy covers (Wilson's, which is not empty at 100 %): few images cannot tell a
    lucky epoch from a good one, and later epochs have the smaller learning rate.

    Parameters
    ----------
    epoch_data : epoch number -> its training images. A fixed set returns itself; a regenerating stream returns new
        images when their time has come (its `state_dict` is saved too)
    val : real validation images; the only images that choose anything. None: the last epoch is kept
    training : recipe, epochs, augmentation and, for soft labels, the Teacher
    seed : of the images' order and their augmentation
    on_epoch : called with each history row
    state : where to save and go on from if the process was killed; None saves nothing

    Returns
    -------
    history : one dict per epoch: epoch, steps (so far), lr, train_loss, and where there are validation images val_loss,
        val_accuracy, kept (bool; the weights are those of the last epoch where it is true)
    """
    device = next(model.parameters()).device
    rng = torch.Generator(device=device).manual_seed(seed)
    recipe, epochs = training.recipe, training.epochs

    # A stream knows its size: a Student late in its training need not have its first set drawn again.
    size = epoch_data.size if hasattr(epoch_data, "size") else len(epoch_data(0))
    batches = max(1, size // recipe.batch)
    optimiser, schedule = sgd(model.parameters(), recipe.lr, recipe.weight_decay, epochs * batches)
    model.to(memory_format=torch.channels_last)
    gradients = captured.Gradients(functools.partial(_loss, model, training), model.parameters())

    # Go on from the saved state, or begin
    parts = {"model": model, "optimiser": optimiser, "schedule": schedule, "rng": rng}
    parts |= {"stream": epoch_data} if hasattr(epoch_data, "state_dict") else {}
    start = {"epoch": 0, "batch": 0, "order": None, "total": None, "best": 0.0, "kept": None}
    columns = {"epoch", "steps", "lr", "train_loss"} | (
        {"val_loss", "val_accuracy", "kept"} if val is not None else set()
    )

    def usable(at) -> bool:
        """Whether a saved position is one of this training: an epoch under way has its order of all images."""
        order = torch.arange(size, device=device)
        return (
            len(at.history) == at.epoch <= epochs
            and resume.rows_of(at.history, columns)
            and (at.kept is None or resume.alike(at.kept, model.state_dict()))
            and 0 <= at.batch <= batches
            and (at.order is None or (torch.equal(at.order.sort().values, order) and at.total.dim() == 0))
        )

    at = resume.restore(state, parts, usable, **start, history=[])

    while at.epoch < epochs:
        data = epoch_data(at.epoch)
        model.train()
        if at.order is None:
            at.total = torch.zeros((), device=device)
            at.order = torch.randperm(len(data), generator=rng, device=device)

        # One step per batch
        for index in at.order.tensor_split(batches)[at.batch :]:
            at.total += gradients(training.augment(data.images[index], rng), data.labels[index])
            optimiser.step()
            schedule.step()
            at.batch += 1
            resume.offer(state, parts, at)

        # Look at validation; the latest of the good epochs is kept
        row = {"epoch": at.epoch + 1, "steps": (at.epoch + 1) * batches, "lr": schedule.get_last_lr()[0]}
        row["train_loss"] = at.total.item() / batches
        if val is not None:
            row |= validate(model, val)
            at.best = max(at.best, row["val_accuracy"])
            row["kept"] = row["val_accuracy"] >= as_good_as(at.best, len(val))
            if row["kept"]:
                at.kept = copy.deepcopy(model.state_dict())

        # End of the epoch
        at.history.append(row)
        if on_epoch:
            on_epoch(row)
        at.epoch, at.batch, at.order = at.epoch + 1, 0, None
        resume.offer(state, parts, at, now=at.epoch == epochs)

    gradients.close()
    if at.kept is not None:
        model.load_state_dict(at.kept)
    model.eval()
    return at.history


def as_good_as(best: float, images: int) -> float:
    """The lowest accuracy on so many images that is as good as the best one: Wilson's bound of one standard error.

    Rounded down to a whole image, so that of 100 images 99 are as good as all.
    """
    low, _ = metrics.wilson(round(best * images), images, level=ONE_ERROR)
    return math.floor(low * images) / images - 1e-9


def _loss(model: nn.Module, training: Training, images: Tensor, labels: Tensor) -> Tensor:
    """The loss of one augmented batch, uint8 [N, C, H, W] and int64 [N]: GKD's if there is a Teacher, else
    cross-entropy."""
    inputs = normalise(images).contiguous(memory_format=torch.channels_last)
    teacher = training.teacher
    with autocast(inputs.device, inputs.shape[2]):
        logits = model(inputs).to(inputs.dtype)
        with torch.no_grad():
            teacher_logits = teacher(inputs).to(inputs.dtype) if teacher else None
    if teacher is None:
        return F.cross_entropy(logits, labels)
    return gkd_loss(logits, teacher_logits, labels, training.temperature, training.hard_weight)


def validate(model: nn.Module, val: Split) -> dict:
    """val_loss (cross-entropy) and val_accuracy on real images."""
    logits = predict(model, val.images)
    labels = val.labels.to(logits.device)
    return {
        "val_loss": F.cross_entropy(logits, labels).item(),
        "val_accuracy": (logits.argmax(1) == labels).double().mean().item(),
    }


def save(model: ResNet, path: Path) -> None:
    """Weights as safetensors, the network's sizes in its metadata (one entry: safetensors shuffles several)."""
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    resume.write(state, path, {"config": json.dumps(model.config)})


def load(path: Path, device: str = "cpu") -> ResNet:
    """The network that `save` wrote, in eval mode."""
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    model = ResNet(**config)
    model.load_state_dict(load_file(path))
    return model.to(device, memory_format=torch.channels_last).eval()

"""The Generator: class-conditional diffusion with EDM preconditioning (Karras et al. 2022, arXiv 2206.00364).

The network and the schedulers are those of diffusers; here are the training loop and the EMA
checkpoints. sampling.py turns the trained network into images.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import EDMDPMSolverMultistepScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from kr_utils import captured, resolution, resume
from kr_utils.data import Split
from kr_utils.precision import autocast, compiled

# Training noise levels are log-normal with these parameters (EDM, table 1).
P_MEAN, P_STD = -1.2, 1.2
# Sampling runs from SIGMA_MAX to SIGMA_MIN. EDM's 80 and 0.002 are made for large images and many steps; with 6
# to 16 steps on small 8-bit images (a grey level is 0.008) they waste half of the steps: the spread of a Gaussian
# was reproduced to 9-14 % with them, to 2-5 % with these.
SIGMA_MIN, SIGMA_MAX = 0.02, 20.0


class Generator(torch.nn.Module):
    """A `UNet2DModel` and what is needed to use it: image shape, folding, data scale, number of classes.

    Parameters
    ----------
    classes : number of classes K; index K is the "no class" of classifier-free guidance
    shape : (channels, height, width) of the images
    width : channels of the finest level; each coarser level doubles it, up to four times, and
        there are up to `levels` levels while both sides stay even
    fold : 2 folds each 2x2 pixels into channels, which quarters the cost; 1 does not
    sigma_data : standard deviation of the training pixels in [-1, 1] around their mean
    consistency : trained to leap from any noise level to the image at once (consistency.py)

    Its buffer `mean` is that of the training pixels, per channel: the network sees images less their mean, for noise is
    drawn around 0, and a distance from there would come back as a shift of the brightness.
    """

    def __init__(
        self,
        classes: int,
        shape: tuple[int, int, int],
        width: int = 64,
        levels: int = 2,
        layers: int = 2,
        fold: int = 1,
        sigma_data: float = 0.5,
        consistency: bool = False,
    ):
        super().__init__()
        channels, height, side = shape
        if height % fold or side % fold:
            raise ValueError(f"fold is {fold}, but images are {height}x{side}; the sides must be divisible by it")
        self.config = {
            "classes": classes,
            "shape": list(shape),
            "width": width,
            "levels": levels,
            "layers": layers,
            "fold": fold,
            "sigma_data": sigma_data,
            "consistency": consistency,
        }
        self.classes, self.shape, self.fold, self.sigma_data = classes, tuple(shape), fold, sigma_data

        self.register_buffer("mean", torch.zeros(channels, 1, 1))

        # As many levels as the sides can be halved for
        sizes, usable = (height // fold, side // fold), 1
        while usable < levels and sizes[0] % 2 == sizes[1] % 2 == 0 and min(sizes) > 4:
            sizes, usable = (sizes[0] // 2, sizes[1] // 2), usable + 1

        self.unet = UNet2DModel(
            sample_size=None,
            in_channels=channels * fold**2,
            out_channels=channels * fold**2,
            block_out_channels=tuple(width * min(2**i, 4) for i in range(usable)),
            down_block_types=("DownBlock2D",) * usable,
            up_block_types=("UpBlock2D",) * usable,
            layers_per_block=layers,
            norm_num_groups=8,
            attention_head_dim=min(32, width),
            # Noise level and class scale the features and not only shift them (ADM, arXiv 2105.05233; EDM does so too).
            resnet_time_scale_shift="scale_shift",
            num_class_embeds=classes + 1,
        )

    def forward(self, noisy: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """The raw network output F of EDM eq. 7 for noisy, folded images [N, C, H, W] at noise level sigma [N]."""
        inputs = noisy / (sigma.view(-1, 1, 1, 1) ** 2 + self.sigma_data**2).sqrt()
        # c_noise = log(sigma)/4 spans about [-1.6, 1.1]; diffusers' sinusoids expect a range of hundreds.
        times = sigma.log() / 4 * 250
        with autocast(noisy.device):
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            return self.unet(inputs, times, labels, return_dict=False)[0].float()

    def denoised(self, noisy: Tensor, sigma: Tensor, raw: Tensor) -> Tensor:
        """D of EDM eq. 7: the image that the raw output [N, C, H, W] at noise level sigma [N] (or one) stands for."""
        s, data = sigma.to(noisy.device).view(-1, 1, 1, 1), self.sigma_data
        total = s**2 + data**2
        return noisy * (data**2 / total) + raw * (s * data / total.sqrt())

    def scheduler(self) -> EDMDPMSolverMultistepScheduler:
        return EDMDPMSolverMultistepScheduler(
            sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX, sigma_data=self.sigma_data, solver_order=2
        )

    def encode(self, images: Tensor) -> Tensor:
        """uint8 [N, C, H, W] -> float in [-1, 1], less the mean, folded."""
        return F.pixel_unshuffle(images.float() / 127.5 - 1 - self.mean.to(images.device), self.fold)

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`, clamped and rounded to uint8."""
        pixels = F.pixel_shuffle(latents.float(), self.fold) + self.mean.to(latents.device)
        return pixels.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def guided(model: Generator, x: Tensor, sigma: Tensor, labels: Tensor, guidance: float) -> Tensor:
    """The raw network output [N, C, H, W] under classifier-free guidance, F_none + w (F_class - F_none)."""
    if guidance == 1:
        return model(x, sigma, labels)
    none = torch.full_like(labels, model.classes)
    both = model(torch.cat([x, x]), torch.cat([sigma, sigma]), torch.cat([labels, none]))
    conditional, unconditional = both.chunk(2)
    return unconditional + guidance * (conditional - unconditional)


def build(classes: int, images: Tensor, *, width: int, levels: int, layers: int, fold: int, seed: int) -> Generator:
    """A freshly initialised Generator for training images uint8 [N, C, H, W].

    levels, fold : for images of 28 pixels; `resolution.form` says what becomes of them at other sizes
    """
    channels, height, side = images.shape[1:]
    levels, fold = resolution.form(levels, fold, height, side)
    pixels = images.float() / 127.5 - 1
    mean = pixels.mean((0, 2, 3), keepdim=True)[0]
    sigma_data = round((pixels - mean).std().item(), 4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Generator(classes, (channels, height, side), width, levels, layers, fold, sigma_data)
    model.mean.copy_(mean)
    return model


@dataclass(frozen=True)
class Training:
    """How a Generator is trained, whatever its images.

    steps : optimiser steps; batch : images per step; lr : learning rate after the warm-up
    ema_decay : of the moving average of the weights, per step, in [0, 1)
    label_dropout : probability that a training image loses its label (classifier-free guidance, Ho & Salimans 2022)
    hflip, vflip : mirror training images with probability 1/2
    checkpoints : how many EMA checkpoints are handed out, equally spaced
    """

    steps: int
    batch: int
    lr: float
    ema_decay: float
    label_dropout: float
    hflip: bool = False
    vflip: bool = False
    checkpoints: int = 1


def steps_for(steps: int, images: int, *, batch: int, passes: int = 0, most_steps: int = 0) -> int:
    """Steps on so many training images: `steps`, or the more that `passes` over them ask for, up to `most_steps`.

    batch : images per step; most_steps : limits what the passes ask for, 0 is no limit
    """
    wanted = passes * images // batch
    return max(steps, min(wanted, most_steps or wanted))


def edm_loss(
    network: Callable, model: Generator, clean: Tensor, labels: Tensor, progress: float, rng: torch.Generator
) -> Tensor:
    """EDM's eq. 8 for folded images [N, C, H, W]: with its weighting lambda(sigma), the mean squared error of the raw
    network output against its own target, equal for all noise levels.

    network : `model`, perhaps compiled; progress : share of the training that is done, unused here
    """
    return _edm_loss(network, model, clean, labels, *_noise(clean, rng))


def _noise(clean: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """A noise level per image (EDM, table 1), [N], and noise of strength 1, [N, C, H, W]."""
    sigma = torch.exp(P_MEAN + P_STD * torch.randn(len(clean), generator=rng, device=clean.device))
    return sigma, torch.randn(clean.shape, generator=rng, device=clean.device)


def _edm_loss(
    network: Callable, model: Generator, clean: Tensor, labels: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """`edm_loss` for this noise."""
    spread = sigma.view(-1, 1, 1, 1)
    noisy = clean + spread * noise

    # What F must be for the denoised image c_skip * noisy + c_out * F to equal the clean one.
    scale = (spread**2 + model.sigma_data**2).sqrt()
    target = (clean - noisy * (model.sigma_data / scale) ** 2) * scale / (spread * model.sigma_data)
    return F.mse_loss(network(noisy, sigma, labels), target)


def checkpoint_steps(steps: int, checkpoints: int) -> list[int]:
    """At which training steps a checkpoint is kept: equally spaced, the last one at the end."""
    return sorted({max(1, round(steps * (i + 1) / checkpoints)) for i in range(checkpoints)})


def fit(
    model: Generator,
    split: Split,
    training: Training,
    *,
    seed: int,
    loss_function: Callable = edm_loss,
    on_step: Callable[[dict], None] | None = None,
    on_checkpoint: Callable[[int, Generator], None] | None = None,
    state: resume.State | None = None,
) -> list[dict]:
    """Train in place on the images of `split`; `model` ends with the EMA weights.

    Parameters
    ----------
    split : training images uint8 [N, C, H, W] and their labels int64 [N]
    training : steps, batch, learning rate, EMA, label dropout, mirroring, number of checkpoints
    seed : of every random number of the training; the initial weights have theirs from `build`
    loss_function : `edm_loss`, or another objective with its arguments
    on_step : called about 20 times with {step, loss (mean since the last call)}
    on_checkpoint : called with each checkpoint's step and the model in eval mode, with its EMA weights
    state : where to save and go on from if the process was killed; None saves nothing

    Returns
    -------
    history : the rows given to `on_step`
    """
    device = next(model.parameters()).device
    rng = torch.Generator(device=device).manual_seed(seed)
    steps, batch = training.steps, training.batch

    # Optimiser, warm-up, moving average of the weights
    optimiser = torch.optim.AdamW(model.parameters(), lr=training.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    warmup = min(200, max(1, steps // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / warmup))
    ema = EMAModel(model.parameters(), decay=training.ema_decay, foreach=True)
    keep, report = set(checkpoint_steps(steps, training.checkpoints)), max(1, steps // 20)

    # Folded images, and the network, compiled where that pays
    data, labels = model.encode(split.images.to(device)), split.labels.to(device)
    model.train().to(memory_format=torch.channels_last)
    sizes = (data[:1].expand(batch, *data.shape[1:]), torch.ones(batch, device=device))
    network = compiled(model, (*sizes, labels[:1].expand(batch)), steps)
    usual = loss_function is edm_loss  # others may depend on the progress, which a graph would not see

    def loss_of(clean: Tensor, given: Tensor, *noise: Tensor) -> Tensor:
        if usual:
            return _edm_loss(network, model, clean, given, *noise)
        return loss_function(network, model, clean, given, at.step / steps, rng)

    gradients = captured.Gradients(loss_of, model.parameters(), capture=usual)

    # Go on from the saved state, or begin
    parts = {"model": model, "optimiser": optimiser, "schedule": schedule, "rng": rng, "ema": ema}

    def usable(at) -> bool:
        """Whether a saved position is one of this training."""
        return 0 <= at.step <= steps and 0 <= at.since <= at.step and resume.rows_of(at.history, {"step", "loss"})

    at = resume.restore(state, parts, usable, step=0, history=[], running=torch.zeros((), device=device), since=0)

    for step in range(at.step + 1, steps + 1):
        # A batch: mirrored, some labels dropped
        index = torch.randint(len(data), (batch,), generator=rng, device=device)
        clean = _mirror(data[index], model.fold, training.hflip, training.vflip, rng)
        drop = torch.rand(batch, generator=rng, device=device) < training.label_dropout
        given = torch.where(drop, model.classes, labels[index])

        # One step, and the average follows
        loss = gradients(clean, given, *(_noise(clean, rng) if usual else ()))
        optimiser.step()
        schedule.step()
        ema.step(model.parameters())

        # Report, hand out a checkpoint, save the state
        at.step, at.running, at.since = step, at.running + loss, at.since + 1
        if step % report == 0 or step == steps:
            at.history.append({"step": step, "loss": (at.running / at.since).item()})
            at.running, at.since = torch.zeros((), device=device), 0
            if on_step:
                on_step(at.history[-1])
        if step in keep and on_checkpoint:
            _hand_out(model, ema, step, on_checkpoint)
        resume.offer(state, parts, at, now=step == steps)

    gradients.close()
    ema.copy_to(model.parameters())
    model.eval()
    return at.history


def _hand_out(model: Generator, ema: EMAModel, step: int, on_checkpoint: Callable[[int, Generator], None]) -> None:
    """Call `on_checkpoint` while `model` is in eval mode and has the averaged weights; then the training goes on."""
    ema.store(model.parameters())
    ema.copy_to(model.parameters())
    model.eval()
    on_checkpoint(step, model)
    model.train()
    ema.restore(model.parameters())


def _mirror(latents: Tensor, fold: int, hflip: bool, vflip: bool, rng: torch.Generator) -> Tensor:
    """Mirror folded images with probability 1/2 each way (unfolded for it: folding puts columns in channels)."""
    for wanted, axis in ((hflip, 3), (vflip, 2)):
        if wanted:
            flip = torch.rand(len(latents), generator=rng, device=latents.device) < 0.5
            pixels = F.pixel_shuffle(latents, fold)
            pixels = torch.where(flip[:, None, None, None], pixels.flip(axis), pixels)
            latents = F.pixel_unshuffle(pixels, fold)
    return latents


def save(model: Generator, path: Path) -> None:
    """Weights as safetensors, the configuration in its metadata."""
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    resume.write(state, path, {"config": json.dumps(model.config)})


def load(path: Path, device: str = "cpu") -> Generator:
    """The Generator that `save` wrote, in eval mode."""
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    model = Generator(**config)
    model.load_state_dict(load_file(path))
    return model.to(device, memory_format=torch.channels_last).eval()

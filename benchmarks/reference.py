"""What people would otherwise run, written plainly as the libraries' own examples do it. Only benchmarks use this."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms


class Images(Dataset):
    """Images as MedMNIST's own datasets give them: a PIL image through torchvision transforms, and its label."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self.images, self.labels = images, labels
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        picture = np.moveaxis(self.images[index], 0, -1)
        return self.transform(Image.fromarray(picture.squeeze())), int(self.labels[index])


def train_classifier(model: torch.nn.Module, images: np.ndarray, labels: np.ndarray, *, epochs: int, batch: int):
    """MedMNIST's PyTorch loop: DataLoader, Adam, cross-entropy."""
    loader = DataLoader(Images(images, labels), batch_size=batch, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    criterion = torch.nn.CrossEntropyLoss()
    device = next(model.parameters()).device
    model.train()
    for _ in range(epochs):
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs.to(device)), targets.to(device))
            loss.backward()
            optimizer.step()


def train_diffusion(
    unet: torch.nn.Module, images: np.ndarray, labels: np.ndarray, *, steps: int, batch: int, fold: int
):
    """The loop of diffusers' training example (unconditional_image_generation), with labels: DDPM, fp32, eager."""
    loader = DataLoader(Images(images, labels), batch_size=batch, shuffle=True, drop_last=True)
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    device = next(unet.parameters()).device
    unet.train()
    done = 0
    while done < steps:
        for clean, classes in loader:
            clean = F.pixel_unshuffle(clean.to(device), fold)
            noise = torch.randn(clean.shape, device=device)
            timesteps = torch.randint(0, 1000, (len(clean),), device=device).long()
            noisy = scheduler.add_noise(clean, noise, timesteps)
            predicted = unet(noisy, timesteps, classes.to(device)).sample
            loss = F.mse_loss(predicted, noise)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            done += 1
            if done == steps:
                break


@torch.no_grad()
def sample(unet: torch.nn.Module, labels: torch.Tensor, shape: tuple, *, steps: int, fold: int) -> torch.Tensor:
    """uint8 [N, C, H, W] as a diffusers pipeline draws them: DDPM if steps is 1000, else DDIM with that many steps."""
    scheduler = (DDPMScheduler if steps == 1000 else DDIMScheduler)(num_train_timesteps=1000)
    scheduler.set_timesteps(steps)
    unet.eval()
    device = next(unet.parameters()).device
    image = torch.randn((len(labels), *shape), device=device)
    for t in scheduler.timesteps:
        output = unet(image, t, labels.to(device)).sample
        image = scheduler.step(output, t, image).prev_sample
    pixels = F.pixel_shuffle(image, fold).clamp(-1, 1)
    return ((pixels + 1) * 127.5).round().to(torch.uint8).cpu()


def bootstrap_auc(scores: np.ndarray, inside: np.ndarray, *, draws: int, seed: int = 0) -> np.ndarray:
    """AUC of the decisions [N, n] under weights of pipelines and of records that are drawn with replacement."""
    rng, (several, n) = np.random.default_rng(seed), scores.shape
    found = []
    for _ in range(draws):
        pipelines = np.bincount(rng.integers(several, size=several), minlength=several)
        records = np.bincount(rng.integers(n, size=n), minlength=n)
        weights = np.outer(pipelines, records).ravel()
        found.append(roc_auc_score(inside.ravel(), scores.ravel(), sample_weight=weights))
    return np.array(found)

"""Saved states: what a training needs to go on after its process was killed, bit for bit (on one kind of CPU).

A training loop makes its `parts` (whatever has a state_dict, and torch.Generators), calls `restore` before
the loop and `offer` wherever it may stop. A state is one safetensors file with JSON in its metadata.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "1"
KEPT = 2  # the newest states: if the last one is damaged there is the one before


@dataclass
class State:
    """Where one training saves its states. Plain values only, so that it can be handed to a worker process.

    folder : its own; key : states with another key are not used; every : seconds between two states
    """

    folder: Path
    key: str = ""
    every: float = 60.0
    cost: float = 0.0  # seconds that the last save took
    saved: float = field(default_factory=time.monotonic)
    since: float = field(default_factory=time.monotonic)  # the training's start, earlier attempts counted in

    def part(self, name: str) -> State:
        """The state of a training inside this one."""
        return State(self.folder / name, self.key, self.every)

    def seconds(self) -> float:
        """How long the training has taken, earlier attempts included as far as they were of use."""
        return time.monotonic() - self.since

    def due(self) -> bool:
        """Whether the interval has passed; large states on slow disks never take more than a tenth of the time."""
        return time.monotonic() - self.saved >= (max(self.every, 10 * self.cost) if self.every else 0)

    def files(self) -> list[Path]:
        """Saved states, newest first."""
        return sorted(self.folder.glob("*.safetensors"), reverse=True)

    def load(self) -> dict | None:
        """The newest state that is whole and has this key; None where there is none."""
        for path in self.files():
            try:
                tree, seconds = _read(path, self.key)
            except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
                reason = str(error).strip().splitlines() or [type(error).__name__]
                print(f"{self.folder.name}: saved state {path.name} is not used: {reason[0][:120]}", flush=True)
                continue
            self.since = time.monotonic() - seconds
            return tree
        return None

    def save(self, tree: dict) -> None:
        """Store a tree of dicts, lists, tuples, numbers, texts, tensors; a full disk costs the state, not the run."""
        # The tree as JSON and tensors, with what tells whether it may be used
        started = time.monotonic()
        tensors: dict[str, Tensor] = {}
        text = json.dumps(_pack(tree, tensors))
        about = {"format": FORMAT, "key": self.key, "tree": text, "seconds": repr(self.seconds())}
        about["crc"] = str(_checksum(text, tensors))

        # The newest file beside the one before
        number = max((int(path.stem) for path in self.files() if path.stem.isdigit()), default=0) + 1
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write(tensors, self.folder / f"{number:08d}.safetensors", about)
            for path in self.files()[KEPT:]:
                path.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            print(f"{self.folder.name}: its state could not be saved ({error}); the work goes on", flush=True)
        self.saved = time.monotonic()
        self.cost = self.saved - started

    def clear(self) -> None:
        """Forget everything that was saved here."""
        shutil.rmtree(self.folder, ignore_errors=True)


def restore(state: State | None, parts: dict, **values) -> SimpleNamespace:
    """Give `parts` their saved contents; returns the position in the loop, as saved or else as in `values`.

    parts : name -> torch.Generator, or anything with state_dict and load_state_dict
    values : where the loop begins: numbers, texts, tensors, lists and dicts of them, whatever it carries along
    """
    tree = state.load() if state else None
    if tree is None:
        return SimpleNamespace(**values)
    for name, part in parts.items():
        if isinstance(part, torch.Generator):
            part.set_state(tree["parts"][name])
        else:
            part.load_state_dict(tree["parts"][name])
    print(f"{state.folder.name}: goes on from its state after {state.seconds():.0f} s of work", flush=True)
    return SimpleNamespace(**tree["values"])


def offer(state: State | None, parts: dict, at: SimpleNamespace, *, now: bool = False) -> None:
    """Save `parts` and the position `at` if the interval has passed, or `now` (the training is over)."""
    if state and (now or state.due()):
        taken = {
            name: part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
            for name, part in parts.items()
        }
        state.save({"parts": taken, "values": vars(at)})


def once(state: State | None, make: Callable[[], dict]) -> dict:
    """What `make()` returned (a tree as in `State.save`): made once, read from `state` after that.

    States of trainings inside it, `state.part(...)`, are no longer needed then and removed.
    """
    if state is None:
        return make()
    tree = state.load()
    if tree is None:
        tree = make()
        state.save(tree)
    for folder in state.folder.iterdir() if state.files() else ():
        if folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
    return tree


def write(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """A safetensors file that is there whole or not at all, on the disk when this returns."""
    temporary = path.with_name(f"{path.name}.tmp")
    save_file(tensors, temporary, metadata=metadata)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _read(path: Path, key: str) -> tuple[dict, float]:
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
        if about.get("format") != FORMAT:
            raise ValueError("not a state of this version")
        if about["key"] != key:
            raise ValueError("it was made by other code, settings or data, or on another kind of machine")
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    if about["crc"] != str(_checksum(about["tree"], tensors)):
        raise ValueError("its content was changed")
    return _unpack(json.loads(about["tree"]), tensors), float(about["seconds"])


def _checksum(text: str, tensors: dict[str, Tensor]) -> int:
    total = zlib.crc32(text.encode())
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy(), total)
    return total


def _pack(value, tensors: dict[str, Tensor]):
    """A tree as JSON; its tensors go to `tensors`, in the order of their memory, for results can depend on strides."""
    if isinstance(value, Tensor):
        order = sorted(range(value.dim()), key=lambda axis: -value.stride(axis))
        name = f"{len(tensors):06d}"
        tensors[name] = value.detach().permute(order).contiguous().cpu()
        return {"tensor": name, "order": order, "device": value.device.type}
    if isinstance(value, dict):
        return {"dict": [[key, _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_pack(item, tensors) for item in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a state cannot hold a {type(value).__name__}")


def _unpack(value, tensors: dict[str, Tensor]):
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        order = value["order"]
        back = [order.index(axis) for axis in range(len(order))]
        return tensors[value["tensor"]].permute(back).to(value["device"])
    if "dict" in value:
        return {key: _unpack(item, tensors) for key, item in value["dict"]}
    kind, items = next(iter(value.items()))
    return {"list": list, "tuple": tuple}[kind](_unpack(item, tensors) for item in items)

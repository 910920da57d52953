"""Saved states: what a training needs to go on after its process was killed, bit for bit (on one kind of CPU).

A training loop makes its `parts` (whatever has a state_dict, and torch.Generators), calls `restore` before
the loop and `offer` wherever it may stop. A state is one safetensors file with JSON in its metadata.
"""

from __future__ import annotations

import contextlib
import copy
import json
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kr_utils import InputError, owned

FORMAT = "1"
OVER = "over"  # marks the state of a training that has ended
PASSING = "passing"  # marks what can be made again, and is not worth its place in a finished stage
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
        """Saved states, newest first; nothing where the folder is a link, which may lead anywhere."""
        found = [] if self.folder.is_symlink() else self.folder.glob("*.safetensors")
        return sorted((path for path in found if path.is_file()), reverse=True)

    def trees(self) -> Iterator[tuple[Path, dict]]:
        """The states that are whole and have this key, newest first."""
        for path in self.files():
            try:
                tree, seconds = _read(path, self.key)
            except Exception as error:  # a file can be wrong in as many ways as safetensors, JSON and torch can raise
                self.refuse(path, error)
                continue
            self.since = time.monotonic() - seconds
            yield path, tree
        self.since = time.monotonic()

    def over(self) -> bool:
        """Whether the training that saves here has ended."""
        tree = self.load()
        return tree is not None and OVER in tree

    def refuse(self, path: Path, error: Exception) -> None:
        """Say in a line why a state is not used."""
        reason = str(error).strip().splitlines() or [type(error).__name__]
        print(f"{self.folder.name}: saved state {path.name} is not used: {reason[0][:120]}", flush=True)

    def load(self, usable: Callable[[dict], bool] = lambda tree: True) -> dict | None:
        """The newest state that is whole, has this key and is `usable`; None where there is none."""
        for path, tree in self.trees():
            try:
                if not usable(tree):
                    raise ValueError("it does not hold what is asked for")
            except Exception as error:  # what is in it has no form that could be relied on
                self.refuse(path, error)
                continue
            return tree
        return None

    def save(self, tree: dict) -> None:
        """Store a tree of dicts, lists, plain values, tensors and arrays; a full disk costs the state, not the run."""
        # The tree as JSON and tensors, with what tells whether it may be used
        started = time.monotonic()
        tensors: dict[str, Tensor] = {}
        text = json.dumps(_pack(tree, tensors))
        about = {"format": FORMAT, "key": self.key, "tree": text, "seconds": repr(self.seconds())}
        about["crc"] = str(_checksum(text, tensors))

        # The newest file beside the one before
        number = max((int(path.stem) for path in self.files() if path.stem.isdecimal()), default=0) + 1
        try:
            owned.make(self.folder)
            write(tensors, self.folder / f"{number:08d}.safetensors", about)
            for path in self.files()[KEPT:]:
                owned.remove(path)
        except (OSError, InputError, SafetensorError) as error:
            print(f"{self.folder.name}: its state could not be saved ({error}); the work goes on", flush=True)
        self.saved = time.monotonic()
        self.cost = self.saved - started

    def clear(self) -> None:
        """Forget everything that was saved here."""
        owned.remove(self.folder)


def restore(
    state: State | None, parts: dict, usable: Callable[[SimpleNamespace], bool] = lambda at: True, **values
) -> SimpleNamespace:
    """Give `parts` their saved contents; returns the position in the loop, as saved or else as in `values`.

    A state that is whole but does not fit is told and deleted: it would stop this training at every start.

    Parameters
    ----------
    parts : name -> torch.Generator, or anything with state_dict and load_state_dict
    usable : whether a saved position can be one of this loop
    values : where the loop begins: numbers, texts, tensors, lists and dicts of them, whatever it carries along
    """
    for path, tree in state.trees() if state else ():
        over = isinstance(tree, dict) and OVER in tree
        here = _lasting(parts) if over else parts
        before = copy.deepcopy(_contents(here))
        try:
            if not alike(tree, {"parts": before, "values": values} | ({OVER: True} if over else {})):
                raise ValueError("it is not one of this training")
            at = SimpleNamespace(**tree["values"])
            if not usable(at):
                raise ValueError("its position is not one of this training")
            _fill(here, tree["parts"])

        # Each kind of part has errors of its own
        except Exception as error:
            _fill(here, before)
            state.refuse(path, error)
            with contextlib.suppress(OSError):  # where that is not possible it is told again
                owned.remove(path)
            continue
        told = "is trained already, in" if over else "goes on from its state after"
        print(f"{state.folder.name}: {told} {state.seconds():.0f} s of work", flush=True)
        return at
    return SimpleNamespace(**values)


def alike(found, like) -> bool:
    """Whether a saved tree has the form of `like`; what is None or empty there may hold anything of its kind."""
    if like is None:
        return True
    if isinstance(like, Tensor):
        return isinstance(found, Tensor) and (found.shape, found.dtype) == (like.shape, like.dtype)
    if isinstance(like, dict):
        same = isinstance(found, dict) and (not like or found.keys() == like.keys())
        return same and all(alike(found[key], value) for key, value in like.items())
    if isinstance(like, (list, tuple)):
        same = isinstance(found, type(like)) and (not like or len(found) == len(like))
        return same and all(map(alike, found, like))
    return type(found) in ((int, float) if isinstance(like, float) else (type(like),))


def rows_of(found: list, columns: set[str]) -> bool:
    """Whether all of a saved history are rows of numbers in these columns."""
    return all(row.keys() == columns and all(isinstance(v, (int, float)) for v in row.values()) for row in found)


def _contents(parts: dict) -> dict:
    """What there is to save of each part."""
    return {
        name: part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
        for name, part in parts.items()
    }


def _fill(parts: dict, contents: dict) -> None:
    """The opposite of `_contents`; ValueError for moments of an optimiser that are not of its parameters' shape."""
    for name, part in parts.items():
        if isinstance(part, torch.Generator):
            part.set_state(contents[name])
        else:
            part.load_state_dict(contents[name])
        for parameter, moments in part.state.items() if isinstance(part, torch.optim.Optimizer) else ():
            for value in moments.values():
                if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                    raise ValueError(f"{name} holds tensors of another shape")


def _lasting(parts: dict) -> dict:
    """What of a training counts once it is over: not its optimiser, learning rate and random numbers."""
    passing = (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, torch.Generator)
    return {name: part for name, part in parts.items() if not isinstance(part, passing)}


def offer(state: State | None, parts: dict, at: SimpleNamespace, *, now: bool = False) -> None:
    """Save `parts` and the position `at` if the interval has passed, or `now` (the training is over)."""
    if state and now:
        state.save({"parts": _contents(_lasting(parts)), "values": vars(at), OVER: True})
    elif state and state.due():
        state.save({"parts": _contents(parts), "values": vars(at)})


def once(state: State | None, make: Callable[[], dict], usable: Callable[[dict], bool] = lambda tree: True) -> dict:
    """What `make()` returned (a tree as in `State.save`): made once, read from `state` after that if it is `usable`.

    States of trainings inside it, `state.part(...)`, are no longer needed then and removed.
    """
    if state is None:
        return make()
    tree = state.load(usable)
    if tree is None:
        tree = make()
        state.save(tree)
    for folder in state.folder.iterdir() if state.files() else ():
        if folder.is_dir():
            owned.remove(folder)
    return tree


def keep(states: dict[str, tuple[State, str]], path: Path) -> None:
    """Write what a stage's trainings came to into one file, so that `lay_out` can hand it to the same trainings again.

    Parameters
    ----------
    states : name -> its state, and a fingerprint of the code that asked for it
    """
    tensors: dict[str, Tensor] = {}
    kept: dict[str, dict] = {}
    for name, (state, code) in sorted(states.items()):
        ended = {}
        for folder in sorted({file.parent for file in state.folder.rglob("*.safetensors")}):
            tree = State(folder, state.key).load()
            if tree is not None and PASSING not in tree and ("parts" not in tree or OVER in tree):  # nor still at work
                ended[str(folder.relative_to(state.folder))] = _pack(tree, tensors)
        kept |= {name: {"code": code, "ended": ended}} if ended else {}
    if kept:
        write(tensors, path, {"trainings": json.dumps(kept)})


def lay_out(path: Path, name: str, code: str, state: State, seconds: float) -> bool:
    """Put the ended trainings called `name` of a file that `keep` wrote where `state` finds them.

    seconds : that they took. Returns whether there are any that the same code asked for.
    """
    with safe_open(path, "pt") as file:
        found = json.loads(file.metadata()["trainings"]).get(name)
        if not found or found["code"] != code:
            return False
        for place, packed in found["ended"].items():
            names = _names(packed)
            tree = _unpack(packed, {tensor: file.get_tensor(tensor).clone() for tensor in names})
            part = State(state.folder / place, state.key, state.every)
            part.since -= seconds
            part.save(tree)
    return bool(found["ended"])


def _names(packed) -> list[str]:
    """Names of the tensors in what `_pack` made."""
    if isinstance(packed, dict) and "tensor" in packed:
        return [packed["tensor"]]
    inside = packed.values() if isinstance(packed, dict) else packed if isinstance(packed, list) else ()
    return [name for item in inside for name in _names(item)]


def write(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """A safetensors file that is there whole or not at all, on the disk when this returns."""
    owned.write(path, save(tensors, metadata))  # not `save_file`, which follows links and ignores the umask


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
    """A tree as JSON; tensors and arrays go to `tensors` in their order in memory: results can depend on strides."""
    if isinstance(value, Tensor):
        order = sorted(range(value.dim()), key=lambda axis: -value.stride(axis))
        name = f"{len(tensors):06d}"
        tensors[name] = value.detach().permute(order).contiguous().cpu()
        return {"tensor": name, "order": order, "device": value.device.type}
    if isinstance(value, np.ndarray):
        return {"array": _pack(torch.from_numpy(np.ascontiguousarray(value)), tensors)}
    if isinstance(value, np.generic):
        value = value.item()
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
        device = value["device"] if torch.cuda.is_available() else "cpu"  # trained on a GPU, shown on a laptop
        return tensors[value["tensor"]].permute(back).to(device)
    if "array" in value:
        return _unpack(value["array"], tensors).cpu().numpy()
    if "dict" in value:
        return {key: _unpack(item, tensors) for key, item in value["dict"]}
    kind, items = next(iter(value.items()))
    return {"list": list, "tuple": tuple}[kind](_unpack(item, tensors) for item in items)

"""What makes a stage's result stale: code, budget, data; the files that it read are told by finished.py."""

from __future__ import annotations

import hashlib
import json
import sys

from kr_utils.runs.code import code_hashes
from kr_utils.runs.machine import hardware, versions


def ingredients(stage: str, dataset: str, seed: int, budget: dict, checksum: str) -> dict:
    """What a stage's result depends on besides the files that it reads, as plain JSON."""
    parts = {"stage": stage, "dataset": dataset, "seed": seed, "budget": budget, "checksum": checksum}
    return json.loads(json.dumps(parts | {"code": code_hashes(stage)}))


def fingerprint(parts: dict) -> str:
    """SHA-256 (16 hex digits) of plain JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def what_changed(old: dict, new: dict) -> str:
    """In words which of `ingredients` differ, for a person deciding whether to wait; empty if none does."""
    reasons = []
    for key, after in new["budget"].items():
        before = old["budget"].get(key)
        if before != after:
            reasons.append(f"{key} {before} -> {after}")
    reasons += code_changes(old["code"], new["code"])
    if old["checksum"] != new["checksum"]:
        reasons.append("the data changed")
    same = all(old[key] == value for key, value in new.items())
    return "; ".join(reasons) or ("" if same else "parameters changed")


def code_changes(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """A few words for each file whose reached code differs."""
    words = []
    for key in sorted(set(old) | set(new)):
        if old.get(key) != new.get(key):
            file = key if "." in key else f"{key}.py"
            words.append("the notebook's code changed" if key == "notebook" else f"{file} changed")
    return words


def state_owner(parts: dict, upstream: dict[str, str]) -> dict:
    """What a saved state depends on: a stage's ingredients, all files of the stages that it may read (a digest each),
    torch, and where and with how many threads it computes."""
    machine, kind = hardware(), {}
    if "torch" in sys.modules:
        kind = {"torch": versions()["torch"], "threads": machine["threads"]}
        kind |= {"device": "cuda" if machine["gpu"] else "cpu", "cpu": machine["cpu"]}
    return {"ingredients": parts, "upstream": upstream, **kind}


def why_not(old: dict, new: dict) -> str:
    """What differs between two owners of states, in words."""
    words = [what_changed(old["ingredients"], new["ingredients"])]
    words += [f"{name} is new" for name, value in new["upstream"].items() if old["upstream"].get(name) != value]
    plain = [key for key in new if key not in ("ingredients", "upstream") and old.get(key) != new[key]]
    return "; ".join(filter(None, words + [f"{key} {old.get(key)} -> {new[key]}" for key in plain]))

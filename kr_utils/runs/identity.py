"""What makes a stage's result stale: code, budget, data, upstream."""

from __future__ import annotations

import hashlib
import json
import sys

from kr_utils.runs.code import code_hashes
from kr_utils.runs.machine import hardware, versions


def ingredients(stage: str, dataset: str, seed: int, budget: dict, checksum: str, upstream: dict[str, str]) -> dict:
    """Everything that a stage's result depends on, as plain JSON; `fingerprint` hashes it."""
    return json.loads(
        json.dumps(
            {
                "stage": stage,
                "dataset": dataset,
                "seed": seed,
                "budget": budget,
                "checksum": checksum,
                "code": code_hashes(stage),
                "upstream": upstream,
            }
        )
    )


def fingerprint(parts: dict) -> str:
    """SHA-256 (16 hex digits) of `ingredients`."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def what_changed(old: dict, new: dict) -> str:
    """One line: which ingredient differs, for a person deciding whether to wait."""
    reasons = []
    for key, before in old.get("budget", {}).items():
        after = new["budget"].get(key)
        if before != after:
            reasons.append(f"{key} {before} -> {after}")
    for key in sorted(set(old.get("code", {})) | set(new["code"])):
        if old.get("code", {}).get(key) != new["code"].get(key):
            file = key if "." in key else f"{key}.py"
            reasons.append("the notebook's code changed" if key == "notebook" else f"{file} changed")
    if old.get("checksum") != new["checksum"]:
        reasons.append("the data changed")
    for key in sorted(set(old.get("upstream", {})) | set(new["upstream"])):
        if old.get("upstream", {}).get(key) != new["upstream"].get(key):
            reasons.append(f"{key} is new")
    return "; ".join(reasons) or "parameters changed"


def state_owner(parts: dict) -> dict:
    """What a saved state depends on: a stage's ingredients, torch, and where and with how many threads it computes."""
    machine, kind = hardware(), {}
    if "torch" in sys.modules:
        kind = {"torch": versions()["torch"], "threads": machine["threads"]}
        kind |= {"device": "cuda" if machine["gpu"] else "cpu", "cpu": machine["cpu"]}
    return {"ingredients": parts, **kind}


def why_not(old: dict, new: dict) -> str:
    """What differs between two owners of states, in words."""
    words = [f"{key} {old.get(key)} -> {new[key]}" for key in new if key != "ingredients" and old.get(key) != new[key]]
    changed = old["ingredients"] != new["ingredients"]
    return "; ".join([what_changed(old["ingredients"], new["ingredients"])] * changed + words)

"""One seed per role, so that no two networks or synthetic sets of a run share their random numbers by accident."""

import hashlib


def derive(seed: int, role: str, k: int = 0) -> int:
    """A seed in [0, 2^31) for a role ("teacher", "student", ...) and number k of a run with this seed."""
    digest = hashlib.sha256(f"{seed}/{role}/{k}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1

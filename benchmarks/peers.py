"""Shadow attacks against independent implementations, on the very same shadows: the largest difference of any score.

The peers pin other versions than this project, and each other's, so each has an environment of its own:

    python3 -m venv a && a/bin/pip install mialibrary==0.1.5
    python3 -m venv b && b/bin/pip install sacroml==2.0.1
    python3 -m venv c && c/bin/pip install jax-privacy==2.0.0 scikit-learn
    for peer in a b c; do $peer/bin/python benchmarks/peers.py; done

It compares with those that it can import; exit 1 if a score differs in the third decimal.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from scipy.special import expit
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from kr_utils import audit
from kr_utils import shadow_attacks as sa

PIPELINES, RECORDS = 16, 200
CLOSE = 5e-4


def world() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """phi [N, n], memberships, and phi of as many records that no pipeline saw."""
    rng, inside = np.random.default_rng(0), audit.halves(RECORDS, PIPELINES, 0)
    level, noise = rng.normal(0, 2, RECORDS), rng.normal(size=(2, PIPELINES, RECORDS))
    return level + noise[0] + 1.5 * inside, inside, rng.permutation(level) + noise[1]


def stacked(phi: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Target 0 above the shadows that ours uses of each record, first those with it: [1 + 2 h, n], and memberships."""
    rows = sa._shadows(inside, [0])
    values = np.concatenate([phi[:1], *(np.take_along_axis(phi, each, axis=0) for each in rows)])
    with_ = np.zeros(values.shape, dtype=bool)
    with_[1 : 1 + len(rows[0])] = True
    return values, with_


def mialibrary() -> dict[str, float]:
    """LiRA with both variances, RMIA at its gamma 1, offline with its a = 1."""
    from mialibrary.lira.simple_lira import get_shadow_stats, run_simple_lira
    from mialibrary.rmia import rmia

    phi, inside, phi_z = world()
    values, with_ = stacked(phi, inside)
    shadows, found = get_shadow_stats(values[:, :, None], with_, 0), {}
    for variance in sa.VARIANCES:
        theirs = run_simple_lira(*shadows, fix_variance=variance == "fixed", use_median=False)
        found[f"LiRA online, variance {variance}"] = abs(theirs - sa.lira(phi, inside, 0, variance=variance)).max()

    p, p_z = expit(values), expit(phi_z)
    ratio_z = rmia.compute_ratio_z(p_z, rmia.compute_pr_z(p_z))[:1]
    for name, a in (("online", None), ("offline", 1.0)):
        ratio_x = p[:1] / rmia.compute_pr_x(p, with_, offline=a is not None)[:1]
        theirs = rmia.compute_rmia_score(ratio_x, ratio_z)[0]
        found[f"RMIA {name}"] = abs(theirs - sa.rmia(expit(phi), inside, 0, p_z=p_z, gamma=1, a=a)).max()
    return found


def sacroml() -> dict[str, float]:
    """LiRA in its three modes; its fixed variance is that of all records' values together, another thing than ours."""
    from sacroml.attacks.likelihood_attack import LIRAAttack as Theirs

    phi, inside, _ = world()
    values, with_ = stacked(phi, inside)
    attack, found = SimpleNamespace(fix_variance=False), {}
    for mode, form in (("online-carlini", "online"), ("offline", "one-sided"), ("offline-carlini", "likelihood")):
        theirs = []
        for k in range(RECORDS):
            of_in, of_out = (Theirs._get_mean_std(attack, values[1:, k][with_[1:, k] == side], 0) for side in (1, 0))
            theirs.append(Theirs._get_probabilities(attack, values[0, k], *of_out, *of_in, mode)[1])
        ours = sa.lira(phi, inside, 0, form=form, variance="own")
        found[f"LiRA {form}"] = abs(np.array(theirs) - (norm.cdf(ours) if mode == "offline" else ours)).max()
    return found


def jax_privacy() -> dict[str, float]:
    """The one-run bound, with and without delta."""
    from jax_privacy import auditing

    differences = []
    for right, guesses, canaries, delta in ((328, 546, 546, 0), (546, 546, 546, 0), (382, 400, 546, 1e-5)):
        theirs = auditing._epsilon_one_run(0.0, canaries, guesses, right, 0.05, delta)
        differences.append(abs(theirs - sa.one_run_epsilon(right, guesses, delta=delta, canaries=canaries)))
    return {"one-run bound": max(differences)}


def main() -> int:
    worst = 0.0
    for package, compare in (("mialibrary", mialibrary), ("sacroml", sacroml), ("jax-privacy", jax_privacy)):
        try:
            print(f"{package} {version(package)}")
        except PackageNotFoundError:
            print(f"{package}: not in this environment")
            continue
        for name, difference in compare().items():
            print(f"  {name:32s} largest difference {difference:.1e}")
            worst = max(worst, difference)
    return int(worst > CLOSE)


if __name__ == "__main__":
    sys.exit(main())

"""What may be believed: whether the controls of an attack held, and whether a CAS gap says anything.

Only words from plain numbers, on the ground floor: notebook 06 stores them, 10 and the driver show them.
"""

from __future__ import annotations

from collections.abc import Sequence

MARK = "(!)"  # beside every number that is not to be believed
FEWEST = 20  # images on each side without which a control shows nothing, caught or not
HELD = "held"  # what a table says of controls that did as they must
HALVES = "a leak is claimed from random halves only"

Interval = tuple[float, float, float]  # value, low, high


def of_classifiers(positive: dict, negative: dict[str, dict]) -> list[str]:
    """Why the attacks on the classifiers are not to be believed; empty where both controls held.

    Parameters
    ----------
    positive : `attacks.audit` of the loss attack on a classifier that has memorised its images
    negative : attack -> auc and auc_error over memberships drawn at random, as `attacks.negative_control` gives them
    """
    doubts = _too_few(positive)
    if not _found(positive):
        doubts.append(f"the positive control was not caught ({_auc(positive)})")
    for name, row in negative.items():
        # Four standard errors: a right attack is doubted once in 16,000 times. The rest is for ties among few scores.
        if abs(row["auc"] - 0.5) >= 4 * row["auc_error"] + 0.002:
            doubts.append(f"the {name} attack found members in noise (negative control: AUC {row['auc']:.3f})")
    return doubts


def of_images(copies: dict) -> list[str]:
    """Why the attack on the synthetic images is not to be believed: copies were planted and it did not find them."""
    return [] if _found(copies) else [f"planted copies were not found ({_auc(copies)})"]


def of_splits(control: dict, images: int) -> list[str]:
    """Why no attack is to be believed: training and test images differ by themselves, no network being involved.

    Parameters
    ----------
    control : `attacks.audit` of the nearest-image attack with validation images in place of the synthetic ones
    images : the number of those validation images
    """
    doubts = _too_few(control)
    if images < FEWEST:
        doubts.append(f"only {images} validation images, and the split control needs {FEWEST}")
    # A 95 % interval is 3.92 standard errors wide; the same four of them are allowed as in the negative control.
    if abs(control["auc"] - 0.5) > 4 * (control["auc_high"] - control["auc_low"]) / 3.92 + 0.002:
        doubts.append(f"training and test images differ by themselves (split control: {_auc(control)})")
    return doubts


def _too_few(row: dict) -> list[str]:
    sides = (("members", "members"), ("non_members", "non-members"))
    few = [f"{row[key]} {name}" for key, name in sides if row[key] < FEWEST]
    return [f"only {' and '.join(few)}, and a control needs {FEWEST}"] if few else []


def _found(row: dict) -> bool:
    return row["auc_low"] > 0.5


def _auc(row: dict) -> str:
    return "AUC " + numbers(row["auc"], row["auc_low"], row["auc_high"])


def told(doubts: Sequence[str]) -> str:
    """What a notebook prints of controls."""
    return f"not to be believed: {'; '.join(doubts)}" if doubts else "the controls held"


def doubt(attacked: dict, which: str) -> str:
    """The reasons in the stored metrics of 06 not to believe its attacks; "" where there is none, or none is known.

    which : "models" or "images"
    """
    return "; ".join(attacked.get("doubts", {}).get(which, []))


def controls(attacked: dict, which: str) -> str:
    """What a table says of stored metrics of 06: the doubts, `HELD`, or "" where nothing is known."""
    return doubt(attacked, which) or ("doubts" in attacked) * HELD


def of_shift(train_test: Interval, val_test: Interval, train_val: Interval) -> str:
    """What the loss attack's three AUCs say of membership and of the splits.

    train_test, val_test, train_val : (auc, low, high); the first split is taken for the members
    """
    # Both are outsiders
    told, whole = numbers(*val_test), f"the train-test AUC, {numbers(*train_test)}"
    if val_test[1] > 0.5:
        outsiders = f"validation images look like members beside test images (AUC {told}), though neither were in "
        outsiders += f"training: so much of {whole}, may be a difference between the splits"
    elif val_test[2] < 0.5:
        outsiders = f"test images look like members beside validation images (AUC {told}), though neither were in "
        outsiders += f"training: a difference between the splits may hide a part of {whole}"
    else:
        outsiders = f"validation and test images, neither in training, are not told apart (AUC {told}), beside {whole}"

    # Members beside images of the same source, where the splits were cut from one
    found = "are told" if train_val[1] > 0.5 else "are not told"
    return f"{outsiders}; training images {found} from validation images (AUC {numbers(*train_val)}); {HALVES}"


def numbers(value: float, low: float, high: float) -> str:
    """A number with its interval, "0.532 [0.501, 0.562]"."""
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def signed(value: float, low: float, high: float, digits: int = 3) -> str:
    """A difference with its interval, "-0.076 [-0.101, -0.052]"."""
    return "{:+.{n}f} [{:+.{n}f}, {:+.{n}f}]".format(value, low, high, n=digits)


def marked(text: str, why: str) -> str:
    """A number or a name, with the mark beside it if there is a reason not to believe it."""
    return f"{text} {MARK}" if why else text


def unlearned(counts: Sequence[int], accuracy: float, recall: Sequence[float]) -> str:
    """Words for a classifier that has learned nothing, to stand behind its name; "" for any other.

    Parameters
    ----------
    counts : test images of each class; recall : per class
    """
    # The recalls of a classifier that only ever says one class are 1 there and 0 everywhere else.
    if max(recall) == sum(recall) == 1:
        return "says one class only"
    if accuracy <= max(counts) / sum(counts) + 1e-9:
        return "is no better than always saying the most frequent class"
    return ""


def empty_gap(counts: Sequence[int], accuracies: Sequence[float], recalls: Sequence[Sequence[float]]) -> str:
    """Words for a gap between two classifiers neither of which has learned anything; "" for any other gap.

    Parameters
    ----------
    counts : test images of each class
    accuracies, recalls : of the classifiers; a recall per class
    """
    found = [unlearned(counts, accuracy, recall) for accuracy, recall in zip(accuracies, recalls)]
    if not all(found):
        return ""
    same = set(found) == {"says one class only"}
    return "both know one class only" if same else "neither beats always saying the most frequent class"


def of_audit(positive: dict[str, dict], negative: dict[str, dict], copies: dict) -> list[str]:
    """Why an audit is not to be believed; empty where its controls held.

    Parameters
    ----------
    positive : attack -> its row on a classifier that has memorised its members; "auc" is None where it takes more
        pipelines. The loss attack and LiRA must catch it; any other that misses it has no power (`missed`)
    negative : attack -> auc and auc_error on memberships that nobody had
    copies : row of the attack on released images among which copies of members were planted
    """
    needed = [name for name in ("loss", "lira") if positive[name]["auc"] is not None]
    doubts = [f"{name} missed the overfitted classifier ({_auc(positive[name])})" for name in needed
              if not _found(positive[name])]  # fmt: skip
    for name, row in negative.items():
        if abs(row["auc"] - 0.5) >= 4 * row["auc_error"] + 0.002:  # as in `of_classifiers`
            doubts.append(f"the {name} attack found members in noise (AUC {row['auc']:.3f})")
    return doubts + of_images(copies)


def missed(positive: dict[str, dict]) -> list[str]:
    """The attacks that did not catch a classifier that has memorised its members: their silence says nothing."""
    return [name for name, row in positive.items() if row["auc"] is not None and not _found(row)]

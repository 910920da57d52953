"""What a dataset's licence says of handing out what was made from it: a rule about words, and no lawyer's advice.

Synthetic images and a Student count as derivatives of the images that they were made from. A licence that is known to
allow derivatives is carried over; one that forbids them is refused; where nothing is known, the holder of the rights
has to say so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kr_utils import InputError, shown

# Licence in plain words -> its identifier on the Hugging Face Hub. Creative Commons is spelled out by `_creative`.
KNOWN = {
    "cc0": "cc0-1.0", "cc0 1 0": "cc0-1.0", "cc zero": "cc0-1.0", "public domain": "other", "unlicense": "unlicense",
    "mit": "mit", "isc": "isc", "apache 2 0": "apache-2.0", "apache 2": "apache-2.0",
    "bsd": "bsd", "bsd 2 clause": "bsd-2-clause", "bsd 3 clause": "bsd-3-clause",
    "odbl": "odbl", "odbl 1 0": "odbl", "odc by": "odc-by", "odc by 1 0": "odc-by", "pddl": "pddl", "pddl 1 0": "pddl",
    "cdla permissive 1 0": "cdla-permissive-1.0", "cdla permissive 2 0": "cdla-permissive-2.0",
    "cdla sharing 1 0": "cdla-sharing-1.0", "gpl 3 0": "gpl-3.0", "gpl 2 0": "gpl-2.0",
}  # fmt: skip
HUB = {
    "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
    "cc-by-nc-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
}  # fmt: skip
SHARE_ALIKE = {"odbl", "cdla-sharing-1.0", "gpl-3.0", "gpl-2.0"}

# Long forms -> short ones, in text whose signs are spaces
SHORT = [
    (r"\bno(n| )?deriv\w*( works)?", " nd "),
    (r"\bnon ?commercial\b", " nc "),
    (r"\bshare ?alike\b", " sa "),
    (r"\battribution\b", " by "),
    (r"\bcreative commons\b", " cc "),
    (r"\bpublic domain dedication\b|\bpublic\b(?! domain)", " "),
    (r"\b(licen[cs]ed?|international|unported|generic|universal|the|under|version|deed)\b", " "),
    (r"\bv(?=\d)", " "),
]
FORBIDS = (
    r"\bnd\b|\ball rights reserved\b|\bproprietary\b|\bconfidential\b|\binternal use\b|\brestricted\b"
    r"|\b(no|not|never|without)\b( \w+){0,4} "
    r"(re ?)?(distribut\w*|shar\w+|publish\w*|publication|hand(ed)?|derivatives?)\b"
)
NON_COMMERCIAL = "non-commercial: this bundle may not be used commercially"
AND_THEIRS = ", and neither may the images it was made from"  # where their licence is carried over
ALIKE = "share alike: what is made from this bundle must be handed out under the same licence"


@dataclass(frozen=True)
class Terms:
    """Under which terms a bundle is handed out.

    text : as a person reads it; hub : the identifier on the Hugging Face Hub, "other" where it has none
    notes : what is carried over with it, in words
    stated : whether somebody stated these terms; else they are the licence of the images
    """

    text: str
    hub: str
    notes: tuple[str, ...]
    stated: bool = False


def terms(licence: str, name: str, own: bool = False, given: str = "") -> Terms:
    """The terms of what is made from a dataset under this licence.

    Parameters
    ----------
    licence : the dataset's, as its description has it
    name : of the dataset, for the errors
    own : whether it is a set of the user's own, of which he may hold the rights
    given : terms that the user states because the description's say nothing of derivatives; "" for none

    Raises
    ------
    InputError
        The licence forbids derivatives, or is not known and nobody has stated terms; or terms are stated in the place
        of a licence that is known.
    """
    if forbids(licence):
        raise InputError(
            f"the licence of {name}, {shown(licence)}, forbids handing out what is made from its images; ask the "
            "holder of the rights for another one"
        )
    hub = _hub(licence)
    if hub and given:
        raise InputError(f"{name} has a licence, {shown(licence)}, and the bundle inherits it; leave out --terms")
    if hub:
        return Terms(licence, hub, _notes(licence, hub, AND_THEIRS))

    # Nothing is known: who holds the rights may say
    if not own:
        raise InputError(
            f"the licence of {name}, {shown(licence)}, does not allow handing out what is made from its images; ask "
            "its authors"
        )
    if not given:
        raise InputError(
            f"the licence of {name}, {shown(licence)}, is none that is known to allow handing out what is made from "
            f"its "
            f'images; if the holder of the rights allows it, say under which terms: --terms "CC BY 4.0"'
        )
    if forbids(given):
        raise InputError(f"--terms is {shown(given)}, which forbids handing out; name terms that allow it")
    said = f"stated when the bundle was made; the description of the images says {shown(licence)}"
    hub = _hub(given)
    return Terms(given, hub or "other", (said, *_notes(given, hub)), stated=True)


def forbids(text: str) -> bool:
    """Whether these words forbid derivatives, or handing anything out."""
    return bool(re.search(FORBIDS, _short(text)))


def _hub(text: str) -> str:
    """The Hub's identifier of a licence that allows derivatives; "" for one that is not known.

    A remark in brackets is passed over; any other word makes it another licence: "CC BY 4.0, our hospital only".
    """
    plain = " ".join(_short(re.sub(r"\([^()]*\)", " ", text)).split())
    return KNOWN.get(plain) or _creative(plain)


def _creative(plain: str) -> str:
    found = re.fullmatch(r"cc by( nc)?( sa)?( (\d) (\d))?", plain)
    if not found:
        return ""
    kind = "cc-by" + "-nc" * bool(found[1]) + "-sa" * bool(found[2])
    version = f"{kind}-{found[4]}.{found[5]}"
    return version if version in HUB else "cc"


def _short(text: str) -> str:
    """Lower case, signs as spaces, long names short."""
    short = re.sub(r"[^\w]+|_", " ", text.casefold())
    for long, word in SHORT:
        short = re.sub(long, word, short)
    return " ".join(short.split())


def _notes(text: str, hub: str, theirs: str = "") -> tuple[str, ...]:
    words = _short(text).split()
    return (NON_COMMERCIAL + theirs,) * ("nc" in words) + (ALIKE,) * ("sa" in words or hub in SHARE_ALIKE)

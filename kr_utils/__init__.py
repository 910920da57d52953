"""Knowledge Recycling: train on synthetic images, measure what is lost and what still leaks."""

__version__ = "0.1.0"


class InputError(ValueError):
    """Bad input, told in one line: what is wrong, where, and what to do about it."""

    def _render_traceback_(self) -> list[str]:
        """What JupyterLab shows: IPython asks an exception for it, and here the line says it all."""
        return [f"InputError: {self}"]


def plain(text: str) -> str:
    """What somebody else wrote, safe for a terminal and on one line: "?" for every sign that cannot be printed."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def shown(value: object) -> str:
    """A value in an error's line: quoted, on one line, short; its kind where it cannot be written out."""
    try:
        return repr(str(value)[:60])
    except Exception:  # a number of 5,000 digits, or an object whose own code fails
        return f"a value of type {type(value).__name__}"

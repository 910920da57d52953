"""Knowledge Recycling: train on synthetic images, measure what is lost and what still leaks."""

__version__ = "0.1.0"


class InputError(ValueError):
    """Bad input, told in one line: what is wrong, where, and what to do about it."""

    def _render_traceback_(self) -> list[str]:
        """What JupyterLab shows: IPython asks an exception for it, and here the line says it all."""
        return [f"InputError: {self}"]

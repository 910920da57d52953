"""Which cells a kernel ran since a stage was opened: what it computed before must not be stored under that stage.

In JupyterLab cells run in any order. A stage counts the notebook's number cells from `begin` to `finish`: each must
have run since, in order, under the parameters that the stage was opened with.
"""

from __future__ import annotations

import ast
import copy
import sys

from kr_utils import InputError, stages
from kr_utils.runs import code

FREE = {"interactive"}  # parameters that no number depends on
_watching: list[Watch] = []  # at most one: the stage that was opened last in this kernel


class Watch:
    """What this kernel runs from a stage's `begin` on; outside IPython there are no cells, and nothing to watch.

    Parameters
    ----------
    budget : of the stage; the notebook's variable of that name must stay equal to it
    """

    def __init__(self, stage: str, budget):
        self.stage, self.changed, self.ran, self.now = stage, "", [], ("", "")
        ipython = sys.modules.get("IPython")
        self.shell = ipython.get_ipython() if ipython else None
        while _watching:
            _watching[-1].close()
        if self.shell is None:
            return

        # The begin cell itself ends after this: it is the first that is noted.
        named = parameters(stage) - FREE
        given = {name: value for name, value in self.shell.user_ns.items() if name in named}
        self.given = copy.deepcopy(given) | ({"budget": budget} if "budget" in self.shell.user_ns else {})
        self.shell.events.register("pre_run_cell", self._before)
        self.shell.events.register("post_run_cell", self._after)
        _watching.append(self)

    def close(self) -> None:
        """Watch no longer."""
        if self.shell is None:
            return
        _watching.remove(self)
        self.shell.events.unregister("pre_run_cell", self._before)
        self.shell.events.unregister("post_run_cell", self._after)
        self.shell = None

    def _before(self, info) -> None:
        self.now = (info.raw_cell, getattr(info, "cell_id", None) or "")

    def _after(self, result) -> None:
        self.ran.append((result.info.raw_cell, getattr(result.info, "cell_id", None) or "", result.success))
        for name, value in self.given.items():
            if not self.changed and self.shell.user_ns.get(name, value) != value:
                now = self.shell.user_ns[name]
                self.changed = f"{name} was changed from {str(value)[:40]!r} to {str(now)[:40]!r}"

    def cells(self) -> list[str] | None:
        """The code that made what the stage stores, cell by cell; None where it is that of the notebook's file.

        Raises
        ------
        InputError
            Something was computed before the stage was opened, in another order, or under other parameters.
        """
        if self.shell is None:
            return None
        cells = self._number_cells()
        if len(cells) == 1:  # it begins and finishes the stage, so nothing can lie between
            return None
        first, *required, last = cells
        if self.changed:
            self._refuse(f"{self.changed} after the stage was opened", first)

        # Each number cell's last run must come after that of the one above it.
        used, at = {0}, 0
        for cell in required:
            runs = [k for k, run in enumerate(self.ran) if _same(cell, run) and k > 0]
            if not runs:
                self._refuse("it was not run since the stage was opened", cell)
            if not self.ran[runs[-1]][2]:
                self._refuse("it failed", cell)
            if runs[-1] < at:
                self._refuse("a cell above it was run again after it", cell)
            at = runs[-1]
            used |= {at}

        # What ran besides counts, too, unless it is a cell from which no number comes.
        known = [cell for cell in code.notebook_cells(self.stage)]
        extra = [run[0] for k, run in enumerate(self.ran) if k not in used and not any(_same(c, run) for c in known)]
        ran = [self.ran[k][0] for k in sorted(used)] + [self.now[0]]
        if not extra and [text.strip() for text in ran] == [cell[0].strip() for cell in (first, *required, last)]:
            return None
        sources = code.number_cells(self.stage)
        return [*sources[: sources.index(first[0])], *ran, *extra]

    def _number_cells(self) -> list[tuple[str, set[str], str]]:
        """The number cells of the notebook's file from the one that opens the stage to the one that finishes it."""
        skip = code.NOT_NUMBERS - ({"figure"} if self.stage == "compare" else set())
        cells = [cell for cell in code.notebook_cells(self.stage) if not skip & cell[1]]
        begins = [k for k, cell in enumerate(cells) if "begin(" in cell[0]]
        ends = [k for k, cell in enumerate(cells) if ".finish(" in cell[0]]
        if not begins or not ends or begins[0] > ends[-1]:
            raise InputError(f"{stages.STAGES[self.stage][0]}.ipynb: no cell that begins, or none that finishes")
        return cells[begins[0] : ends[-1] + 1]

    def _refuse(self, why: str, cell: tuple[str, set[str], str]) -> None:
        line = next(line for line in cell[0].splitlines() if line.strip() and not line.startswith(("from ", "import ")))
        raise InputError(
            f"{stages.STAGES[self.stage][0]} is not stored: run the cell `{line.strip()[:60]}` and all below it again "
            f"({why})"
        )


def parameters(stage: str) -> set[str]:
    """Names assigned in the cell tagged `parameters` of a stage's notebook."""
    for source, tags, _ in code.notebook_cells(stage):
        if "parameters" in tags:
            return {node.target.id for node in ast.parse(source).body if isinstance(node, ast.AnnAssign)}
    return set()


def _same(cell: tuple[str, set[str], str], run: tuple) -> bool:
    """Whether a run was of this cell of the file: by its id where the kernel was told one, else by its text."""
    return cell[2] == run[1] if run[1] and cell[2] else cell[0].strip() == run[0].strip()

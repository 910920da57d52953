"""Which cells a kernel ran since a stage was opened: what it computed before must not be stored under that stage.

In JupyterLab cells run in any order. A stage counts the notebook's number cells from the one that begins it to the one
that finishes it: each must have run since, in order, under the parameters that the stage was opened with. Whatever else
ran is code, too: the manifest names what ran, not what the notebook's file says.
"""

from __future__ import annotations

import ast
import copy
import os
import sys
from dataclasses import dataclass

from kr_utils import InputError, stages
from kr_utils.runs import code

FREE = {"interactive", "retrain"}  # parameters that no number depends on
_watching: list[Watch] = []  # at most one: the stage that was opened last in this kernel
_noted: set[str] = set()  # cells that ran since this file was imported: a kernel may be told to keep no history (nbval)


@dataclass(frozen=True)
class Cell:
    """A code cell of the notebook's file."""

    text: str
    tags: frozenset[str]
    id: str


@dataclass(frozen=True)
class Run:
    """A cell as it was run; `whole`: without an error. A kernel is not always told ids."""

    text: str
    id: str = ""
    whole: bool = True


class Watch:
    """What this kernel runs from a stage's `begin` on; outside IPython there are no cells, and nothing to watch.

    Parameters
    ----------
    budget : of the stage; the notebook's variable of that name must stay equal to it
    """

    def __init__(self, stage: str, budget):
        self.stage, self.changed = stage, ""
        self.ran: list[Run] = []
        self.now = Run("")
        self.shell = _shell()
        while _watching:
            _watching[-1].close()
        if self.shell is None:
            return

        # The file as it is now: JupyterLab may save another one while the stage is at work
        skip = code.NOT_NUMBERS - ({"figure"} if stage == "compare" else set())
        self.file = [Cell(text, frozenset(tags), id_) for text, tags, id_ in code.notebook_cells(stage)]
        self.numbers = [cell for cell in self.file if not skip & cell.tags]
        begins = [k for k, cell in enumerate(self.numbers) if "begin(" in cell.text]
        ends = [k for k, cell in enumerate(self.numbers) if ".finish(" in cell.text]
        if not begins or not ends or begins[0] > ends[-1]:
            raise InputError(f"{stages.notebook(stage)}.ipynb: no cell that begins, or none that finishes")
        self.above, self.inside = self.numbers[: begins[0]], self.numbers[begins[0] : ends[-1] + 1]
        before = _noted | {text.strip() for text in self.shell.user_ns.get("In", ())}
        self.as_saved = all(cell.text.strip() in before for cell in self.above)

        # The begin cell itself ends after this: it is the first that is noted
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
        self.now = self._run(info)

    def _after(self, result) -> None:
        if result.error_before_exec is None:  # a typo ran nothing
            run = self._run(result.info)
            self.ran.append(Run(run.text, run.id, bool(result.success)))
        for name, value in self.given.items():
            if not self.changed and self.shell.user_ns.get(name, value) != value:
                now = self.shell.user_ns[name]
                self.changed = f"{name} was changed from {str(value)[:40]!r} to {str(now)[:40]!r}"

    def _run(self, info) -> Run:
        id_ = getattr(info, "cell_id", None) or ""
        return Run(info.raw_cell, id_ if id_ in {cell.id for cell in self.file} else "")  # some send ids of their own

    def so_far(self) -> list[str]:
        """What has run that can change a number, the cell at work included: a training's saved state belongs to it."""
        if self.shell is None:
            return []
        return [self._plain(run.text) for run in [*self.ran[1:], self.now] if not self._only_shows(run)]

    def cells(self) -> list[str] | None:
        """The code that made what the stage stores, cell by cell; None where it is that of the notebook's file.

        Raises
        ------
        InputError
            Something was computed before the stage was opened, in another order, or under other parameters.
        """
        if self.shell is None or len(self.inside) == 1:  # a cell that begins and finishes it: nothing lies between
            return None
        first, *required, last = self.inside
        if self.changed:
            self._refuse(f"{self.changed} after the stage was opened", first)
        if self.ran and not self.ran[0].whole:
            self._refuse("it failed", first)

        # Each number cell's last run must come after that of the one above it
        at = 0
        for cell in required:
            places = [k for k, run in enumerate(self.ran) if k and _same(cell, run)]
            if not places:
                self._refuse("it was not run since the stage was opened", cell)
            if not self.ran[places[-1]].whole:
                self._refuse("it failed", cell)
            if places[-1] < at:
                self._refuse("a cell above it was run again after it", cell)
            at = places[-1]

        # Once each and as they are saved, or else what ran is the code; a failed check may be run again
        ran = [run.text for run in self.ran if not self._only_shows(run) and not (_same(last, run) and not run.whole)]
        ran.append(self.now.text)
        if self.as_saved and [text.strip() for text in ran] == [cell.text.strip() for cell in self.inside]:
            return None
        above = [cell.text for cell in self.above] if self.as_saved else ["'edited, or not run'"]
        return [*above, *map(self._plain, ran)]

    def _only_shows(self, run: Run) -> bool:
        """Whether a run was of a cell from which no number comes, and sets nothing that a number cell reads."""
        cell = next((cell for cell in self.file if cell not in self.numbers and _same(cell, run)), None)
        if cell is None:
            return False
        if cell.text.strip() == run.text.strip():
            return True
        try:
            tree = ast.parse(self._plain(run.text))
            read = {node.id for number in self.numbers for node in _names(ast.parse(number.text), ast.Load)}
        except SyntaxError:
            return False
        return not {node.id for node in _names(tree, ast.Store)} & read

    def _plain(self, text: str) -> str:
        """A cell as Python: without magics."""
        return self.shell.transform_cell(text)

    def _refuse(self, why: str, cell: Cell) -> None:
        lines = [line.strip() for line in cell.text.splitlines() if line.strip()]
        line = next((line for line in lines if not line.startswith(("from ", "import "))), lines[0])
        raise InputError(
            f"{stages.folder(self.stage)} is not stored: run the cell with `runs.begin` and all below it again "
            f"(of the cell `{line[:60]}`: {why})"
        )


def parameters(stage: str) -> set[str]:
    """Names assigned in the cell tagged `parameters` of a stage's notebook."""
    trees = [ast.parse(source) for source, tags, _ in code.notebook_cells(stage) if "parameters" in tags]
    return {node.id for tree in trees for node in _names(tree, ast.Store)}


def _names(tree: ast.AST, use: type) -> list[ast.Name]:
    """Names that code reads (ast.Load) or sets (ast.Store, in part as well: `x[0] = 1`, `x.y = 1`)."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, use)]
    for node in ast.walk(tree):
        if use is ast.Store and isinstance(node, (ast.Subscript, ast.Attribute)) and isinstance(node.ctx, use):
            base = node.value
            while isinstance(base, (ast.Subscript, ast.Attribute)):
                base = base.value
            found += [base] if isinstance(base, ast.Name) else []
    return found


def _same(cell: Cell, run: Run) -> bool:
    """Whether a run was of this cell of the file: by its id where the kernel was told one, else by its text."""
    return cell.id == run.id if run.id and cell.id else cell.text.strip() == run.text.strip()


def _shell():
    """The kernel's IPython, or None outside of one."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


def _note(result) -> None:
    _noted.add(result.info.raw_cell.strip())
    if result.error_in_exec is not None:
        _stopped[:] = [f"{type(result.error_in_exec).__name__}: {result.error_in_exec}"]


_stopped: list[str] = []  # the last error


def _tell_at_the_end(kernel) -> None:
    """Have "Run all" say below the last cell, where JupyterLab scrolls to, which error stopped it further up.

    The kernel answers each cell behind an error with "aborted" and no word; JupyterLab shows nothing there.
    """
    notebook = os.path.basename(os.environ.get("JPY_SESSION_NAME", "")).removesuffix(".ipynb")
    stage = next((name for name, (file, _) in stages.STAGES.items() if file == notebook), None)
    answer = getattr(kernel, "_send_abort_reply", None)  # not public: without it, nothing is told
    if stage is None or answer is None:
        return
    last = code.notebook_cells(stage)[-1][2]

    def told(stream, msg, idents):
        if _stopped and msg.get("metadata", {}).get("cellId") == last:
            text = {"name": "stderr", "text": f"Not run, because a cell above failed. {_stopped[0]}\n"}
            kernel.session.send(kernel.iopub_socket, "stream", text, parent=msg)
        return answer(stream, msg, idents)

    kernel._send_abort_reply = told


if _shell() is not None:
    _shell().events.register("post_run_cell", _note)  # called for the cell that imports this file, too
    _tell_at_the_end(getattr(_shell(), "kernel", None))

"""Cells in any order: what a stage stores was computed after its `begin`, in order, under its parameters."""

import contextlib
import json
import queue
import re
import time

import nbformat
import pytest
from jupyter_client import KernelManager

from kr_utils import InputError, profiles, runs, stages
from kr_utils.runs import code, finished

BEGIN, FINISH = "runs.begin(", ".finish("


class Student:
    """A real kernel with a notebook open: runs its cells, in whatever order, some of them changed."""

    def __init__(self, stage, runs_dir, with_ids, retrain=True):
        path = stages.NOTEBOOKS / f"{stages.STAGES[stage][0]}.ipynb"
        self.cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        self.cells[
            0
        ].source += f"\nprofile = 'smoke'\nruns_dir = {str(runs_dir)!r}\ninteractive = False\nretrain = {retrain}"
        self.with_ids = with_ids
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(stages.NOTEBOOKS))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def place(self, text):
        return next(k for k, cell in enumerate(self.cells) if text in cell.source)

    def run(self, *places, also="", history=True):
        """Run cells by their places; the error line of the first that fails, or "". `also`: text added to the first."""
        for k in places:
            source = self.cells[k].source + (f"\n{also}" if k == places[0] else "")
            content = {"code": source, "silent": False, "store_history": history, "user_expressions": {}}
            content |= {"allow_stdin": False, "stop_on_error": True}
            reply = self.ask(k, content)
            while reply["content"]["status"] == "aborted":  # right after an error a kernel drops what is asked of it
                time.sleep(0.2)
                reply = self.ask(k, content)
            if reply["content"]["status"] != "ok":
                return f"{reply['content']['ename']}: {reply['content']['evalue']}"
        return ""

    def ask(self, k, content):
        """The kernel's reply to a request, a new one each time, for a kernel refuses to hear the same one twice.

        A question about nothing wakes a kernel that overheard it.
        """
        message = self.client.session.msg("execute_request", content)
        if self.with_ids:  # as JupyterLab does, and nbclient does not
            message["metadata"]["cellId"] = self.cells[k].id
        self.client.shell_channel.send(message)
        asked = message["msg_id"]
        for _ in range(20):
            with contextlib.suppress(queue.Empty):
                while (reply := self.client.get_shell_msg(timeout=30))["parent_header"].get("msg_id") != asked:
                    pass
                return reply
            self.client.kernel_info()
        raise TimeoutError(message["content"]["code"])

    @property
    def everything(self):
        return range(len(self.cells))


@pytest.fixture
def student(tmp_path):
    opened = []

    def open_(with_ids=True, retrain=True):
        opened.append(Student("start", tmp_path / "runs", with_ids, retrain))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


def stored(tmp_path, seed, stage="start"):
    return runs.read(tmp_path / "runs/smoke/digits" / f"seed{seed}" / stages.STAGES[stage][0])


@pytest.mark.parametrize("with_ids", [True, False], ids=["cell ids", "no ids"])
def test_what_was_computed_before_the_stage_was_opened_is_not_stored_under_it(with_ids, student, tmp_path):
    """The seed is changed, then only the first two code cells and the last one are run."""
    kernel = student(with_ids)
    begin, finish = kernel.place(BEGIN), kernel.place(FINISH)
    assert kernel.run(*kernel.everything) == ""
    assert stored(tmp_path, 0)

    assert kernel.run(0, also="seed = 5") == ""
    line = kernel.run(begin, finish)
    assert re.match(r"InputError: 00_start_here is not stored: run the cell with `runs\.begin` and all below it", line)
    assert "it was not run since the stage was opened" in line
    assert stored(tmp_path, 5) is None
    assert kernel.run(0, also="seed = 5") == ""
    assert kernel.run(*range(1, finish + 1)) == "", "run as it says, it is stored"
    assert stored(tmp_path, 5).manifest["ingredients"]["code"] == stored(tmp_path, 0).manifest["ingredients"]["code"]


CHANGES = {
    "seed = 5": "seed = 0",
    "overrides['images'] = 3": "overrides = {}",
    "dataset = 'breastmnist'": "dataset = 'digits'",
    "budget = profiles.budget('start', profile, {'images': 3})": "",
}


def test_a_parameter_changed_after_the_stage_was_opened_is_refused(student, tmp_path):
    kernel = student()
    begin = kernel.place(BEGIN)
    assert kernel.run(*range(begin + 1)) == ""
    for change, back in CHANGES.items():
        line = kernel.run(*range(begin + 1, len(kernel.cells)), also=change)
        assert f"{change.split()[0].split('[')[0]} was changed from" in line
        assert "is not stored" in line
        assert stored(tmp_path, 0) is None
        assert kernel.run(begin - 1, also=back) == ""
        assert kernel.run(begin) == ""


def test_a_cell_run_again_wants_those_below_it_again_and_is_named(student, tmp_path):
    """A training that is run twice goes on from its own weights: the manifest must not say that it ran once."""
    kernel = student()
    above, below, finish = kernel.place("counts = {"), kernel.place("majority = "), kernel.place(FINISH)
    assert kernel.run(*range(finish)) == ""
    assert kernel.run(above) == ""
    assert "a cell above it was run again after it" in kernel.run(finish)
    assert kernel.run(*range(above, below + 1), finish) == ""
    assert finished.other_code(stored(tmp_path, 0)) == ["the notebook's code changed"]
    assert kernel.run(*range(kernel.place(BEGIN), finish + 1)) == ""
    assert finished.other_code(stored(tmp_path, 0)) == [], "as the refusal says: from the cell with runs.begin"


def test_a_begin_that_failed_half_way_is_refused(student, tmp_path):
    kernel = student()
    begin = kernel.place(BEGIN)
    assert kernel.run(*range(begin)) == ""
    assert "ZeroDivisionError" in kernel.run(begin, also="1 / 0")
    assert "(of the cell `given = parameters.fill(globals())`: it failed)" in kernel.run(
        *range(begin + 1, len(kernel.cells))
    )
    assert stored(tmp_path, 0) is None


def test_ids_of_another_editors_own_and_cells_that_change_nothing_are_fine(student, tmp_path):
    """VS Code sends ids of its own; a typo runs nothing."""
    kernel = student()
    for k, cell in enumerate(kernel.cells):
        cell.id = f"vscode-notebook-cell:{k}"
    begin = kernel.place(BEGIN)
    assert kernel.run(*range(begin + 1)) == ""
    kernel.cells.append(nbformat.v4.new_code_cell("x = = 1"))
    assert "SyntaxError" in kernel.run(len(kernel.cells) - 1)
    del kernel.cells[-1]
    assert kernel.run(*range(begin + 1, len(kernel.cells))) == ""
    assert finished.other_code(stored(tmp_path, 0)) == []


def test_an_exercise_that_sets_a_number_counts(student, tmp_path):
    kernel = student()
    exercise = kernel.place("rarest = None")
    kernel.cells[exercise].source = "rarest = 0.05; recall = None"
    assert kernel.run(*kernel.everything) == ""
    assert finished.other_code(stored(tmp_path, 0)) == []
    kernel.cells[exercise].source = "rarest = 0.05; recall = None; majority = 0.5"
    assert kernel.run(*kernel.everything) == ""
    assert finished.other_code(stored(tmp_path, 0)) == ["the notebook's code changed"]


def test_a_finished_result_that_was_found_stands_whatever_is_edited(student, tmp_path):
    """A class plays with cells: nothing that is stored is lost until somebody sets retrain."""
    kernel = student(retrain=False)
    assert kernel.run(*kernel.everything) == ""
    before = stored(tmp_path, 0).manifest
    kernel.cells[kernel.place("majority = ")].source += "\nmajority = 0.5"
    assert kernel.run(*kernel.everything) == ""
    assert stored(tmp_path, 0).manifest == before
    finish = kernel.place(FINISH)
    assert "is stored already" in kernel.run(finish)
    kernel.cells[0].source += "\nretrain = True"
    assert kernel.run(*kernel.everything) == ""
    assert stored(tmp_path, 0).metrics["majority"] == 0.5
    assert finished.other_code(stored(tmp_path, 0)) == ["the notebook's code changed"]


def test_states_of_an_edited_cell_are_not_those_of_the_saved_one(monkeypatch):
    """An edited training that was run to its end must not be taken up by the notebook as it is saved."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        begin, training = (
            "stage = opened.append(runs.begin('teacher', budget, **where))",
            "keys.append(opened[-1].state('t').key)",
        )
        shell.user_ns |= {"runs": runs, "opened": [], "keys": [], "budget": profiles.budget("teacher", "smoke")}
        shell.user_ns["where"] = {"dataset": "digits", "profile": "smoke", "seed": 0, "checksum": "c"}
        for text in (training, training + "  # lr = 9", training):
            shell.run_cell(begin)
            shell.run_cell(text)
        first, edited, again = shell.user_ns["keys"]
        assert first == again != edited
    finally:
        InteractiveShell.clear_instance()


def test_code_that_was_edited_and_not_saved_is_named_by_the_manifest(student, tmp_path):
    kernel = student()
    kernel.cells[kernel.place("plots.pipeline()")].source += "\nplots.pipeline().set_size_inches(3, 3)"
    assert kernel.run(*kernel.everything) == ""
    assert finished.other_code(stored(tmp_path, 0)) == [], "a figure may be drawn otherwise"

    kernel.cells[kernel.place("counts = {")].source += "\nextra = 1"
    assert kernel.run(*kernel.everything) == ""
    assert finished.other_code(stored(tmp_path, 0)) == ["the notebook's code changed"]


def test_a_cell_of_ones_own_counts(student, tmp_path):
    kernel = student()
    for text in ("counts['test'][0] += 1", "%time counts['test'][1] -= 1"):
        kernel.cells.insert(kernel.place(FINISH), nbformat.v4.new_code_cell(text))
    assert kernel.run(*kernel.everything) == ""
    assert finished.other_code(stored(tmp_path, 0)) == ["the notebook's code changed"]


def test_a_file_edited_while_the_kernel_lives_is_refused(monkeypatch):
    """What runs would be the old code, under the new code's name."""
    budget = profiles.budget("teacher", "smoke")
    where = {"dataset": "digits", "profile": "smoke", "seed": 0, "checksum": "c"}
    monkeypatch.setattr(code, "LOADED", code.LOADED | {"attacks": "OTHER = 1"})
    runs.begin("teacher", budget, **where).finish({})
    monkeypatch.setattr(code, "LOADED", code.LOADED | {"classifier": "OTHER = 1"})
    with pytest.raises(InputError, match=r"classifier\.py was edited since this kernel started: restart it"):
        runs.begin("teacher", budget, **where)


def test_the_last_cell_of_every_notebook_is_the_one_that_finishes():
    for name, _ in stages.STAGES.values():
        cells = json.loads((stages.NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        assert sum(BEGIN in source for source in sources) == 1, name
        assert FINISH in sources[-1], name


def test_a_kernel_without_history_still_knows_what_ran_above(student, tmp_path):
    """As nbval runs notebooks: a cell above the one that begins is known from the import of this project on."""
    one = student()
    above = "from kr_utils.runs import cells\nabove = 1"
    one.cells.insert(0, nbformat.v4.new_code_cell(above))
    one.cells.insert(1, nbformat.v4.new_code_cell(f"assert In == [''] and cells._noted == {{{above!r}}}"))
    assert one.run(*one.everything, history=False) == ""
    done = finished.read(next((tmp_path / "runs").glob("*/*/*/00_start_here")))
    assert done.manifest["ingredients"]["code"]["notebook"] == code.code_hashes("start")["notebook"]

"""Progress of a training: plain lines in a run, a growing table in JupyterLab."""

import pytest

from kr_utils import runs


def test_plain_progress_prints_one_line_a_call(capsys):
    report = runs.progress(10, "teacher", interactive=False)
    report({"epoch": 3, "loss": 0.123456, "best": True})
    report({"epoch": 4, "loss": 0.1, "best": False})
    assert capsys.readouterr().out == "teacher epoch 3/10  loss 0.1235  best\nteacher epoch 4/10  loss 0.1\n"


def test_a_long_training_prints_a_line_now_and_then_and_its_end(capsys):
    report = runs.progress(250, "teacher", interactive=False)
    for epoch in range(1, 251):
        report({"epoch": epoch})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 41
    assert lines[-1] == "teacher epoch 250/250"
    assert lines[1] == "teacher epoch 7/250"


class Handle:
    """What `display` hands out, keeping the last thing it was told to show."""

    def update(self, shown):
        self.text = shown.data


@pytest.fixture
def table(monkeypatch):
    handle = Handle()
    monkeypatch.setattr("IPython.display.display", lambda shown, display_id: handle)
    return handle


def test_live_progress_shows_a_row_per_call_and_reaches_its_end(table):
    report = runs.progress(3, "steps <b>", interactive=True)
    report({"step": 1, "cas": 0.91234, "kept": True})
    assert '<progress aria-label="steps &lt;b&gt;" max="3" value="1">' in table.text
    assert "0.9123</td><td>yes</td>" in table.text
    report({"step": 3, "cas": 0.5, "kept": False})
    assert "3 of 3" in table.text
    assert table.text.count("<tr>") == 3, "the head and two rows"


def test_a_table_without_a_count_counts_its_calls(table):
    report = runs.progress(2, "checkpoints", interactive=True)
    for step in ("100", "200"):
        report({"checkpoint": step, "cas": 0.5})
    assert "2 of 2" in table.text


def test_only_the_newest_rows_stay_in_sight(table):
    report = runs.progress(100, "epochs", interactive=True)
    for epoch in range(1, 101):
        report({"epoch": epoch})
    assert table.text.count("<tr>") == 13
    assert "<td>100</td>" in table.text

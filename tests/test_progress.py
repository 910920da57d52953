"""Progress of a training: plain lines in a run, a bar in JupyterLab."""

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


def test_live_progress_reaches_its_end(capsys):
    bar = runs.progress(4, "steps", interactive=True)
    for step in (1, 3, 4):
        bar({"step": step, "loss": 0.5})
    assert "| 4/4 [" in capsys.readouterr().err

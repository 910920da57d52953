"""JupyterLab in a real browser: students open notebooks, run them, move knobs, give answers, and come back next day."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from kr_utils import stages
from kr_utils.driver import lab as server_

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"
SETTINGS = 'dataset = "digits"\nprofile = "smoke"\nseed = 0\n'
SERVERS = "[data-mime-type='application/vnd.jupyter.stderr']"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """`make lab` on a copy of the project whose settings.toml asks for the smoke profile; yields (address, folder)."""
    folder = tmp_path_factory.mktemp("lab") / "project"
    ignore = shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__")
    for name in ("kr_utils", "notebooks"):
        shutil.copytree(stages.ROOT / name, folder / name, ignore=ignore)
    (folder / "notebooks/settings.toml").write_text(SETTINGS)
    (folder / "runs").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    # As `make lab` starts it, but for the token, the browser and the settings, which are the user's
    options = [
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--IdentityProvider.token=",
        "--ServerApp.disable_check_xsrf=True",
    ]
    call = [sys.executable, "-m", "kr_utils.driver.lab", *options]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KR_")}
    environment |= {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(folder / "s"), "JUPYTERLAB_WORKSPACES_DIR": str(folder / "w")}
    with open(folder / "lab.log", "w") as log:
        server = subprocess.Popen(call, stdout=log, stderr=log, env=environment, cwd=folder)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}", folder
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        assert not os.environ.get("KR_REQUIRE_BROWSER"), "chromium must be installed here"
        pytest.skip("install chromium to run this")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield started
        started.close()


@pytest.fixture
def open_notebook(lab, browser):
    """A function that opens a notebook in a page of its own."""
    pages = []

    def open_(name):
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        pages.append(page)
        page.goto(f"{lab[0]}/lab/tree/notebooks/{name}.ipynb?reset", timeout=90_000)
        page.locator(".jp-Notebook h1").first.wait_for(timeout=90_000)
        return page

    yield open_
    for page in pages:
        page.close()


def run_all_cells(page):
    """As often as JupyterLab needs: asked before its kernel is there, it may do nothing."""
    from playwright.sync_api import TimeoutError as PlaywrightTimeout

    for _ in range(3):
        page.get_by_role("menuitem", name=re.compile("^Run$")).click()
        page.get_by_role("menuitem", name=re.compile("^Run All Cells$")).click()
        ran = page.locator(".jp-InputPrompt", has_text=re.compile(r"\[(\*|\d+)\]"))
        with contextlib.suppress(PlaywrightTimeout):
            ran.first.wait_for(state="attached", timeout=30_000)
            return


def answer(page, text, new):
    """Replace the code of the first cell that holds `text`, and run that cell and the one below it."""
    page.locator(".jp-CodeCell", has_text=text).first.locator(".cm-content").click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(new)
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Shift+Enter")


def test_lab_opens_the_first_notebook_beside_the_runs_on_this_computer_only():
    call = server_.command(["--no-browser"])
    assert f"--ServerApp.root_dir={stages.ROOT}" in call
    assert "--ServerApp.ip=127.0.0.1" in call
    assert "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb?file-browser-path=/" in call
    assert not any("token" in word or "password" in word for word in call), "JupyterLab's own token stays"


@pytest.mark.slow
def test_lab_shows_runs_and_00_says_which_mistake_an_answer_is(lab, open_notebook, browser):
    first = browser.new_page(viewport={"width": 1400, "height": 1000})
    first.goto(f"{lab[0]}/", timeout=90_000)
    first.locator(".jp-Notebook h1", has_text="Start here").wait_for(timeout=90_000)
    first.locator(".jp-DirListing-itemText", has_text=re.compile(r"^\s*runs\s*$")).wait_for(timeout=60_000)
    run_all_cells(first)
    first.get_by_text(re.compile(r"^done: .*00_start_here")).wait_for(state="attached", timeout=180_000)
    assert first.locator(f".jp-RenderedText{SERVERS}").count() == 0
    answer(first, "rarest = None", 'rarest = counts["train"].max() / sum(counts["train"])\nrecall = "0.1"')
    first.get_by_text("that is the share of the most frequent class").wait_for(timeout=30_000)
    first.get_by_text("that is a text; write the number without quotes").wait_for(timeout=30_000)
    answer(first, "rarest = counts", "rarest = counts['train'].min() / counts['train'].sum()\nrecall = 1 / 10")
    first.get_by_text(re.compile(r"^Right!\s+Right!\s*$")).wait_for(timeout=30_000)
    first.close()


@pytest.mark.slow
def test_a_notebook_out_of_order_says_so_where_the_eye_is(open_notebook):
    page = open_notebook("06_membership")
    run_all_cells(page)
    line = page.locator(".jp-RenderedText", has_text="Not run, because a cell above failed. InputError: 06_membership")
    line.wait_for(state="attached", timeout=120_000)
    from playwright.sync_api import expect

    expect(line).to_be_in_viewport()
    told = line.text_content()
    assert "01_teacher, 02_generator, 03_checkpoints, 04_tuning and 05_distillation (digits, profile smoke" in told
    assert "--until distillation" in told
    assert "Traceback" not in told
    assert page.locator(".jp-CodeCell").last.locator(".jp-RenderedText").count() == 1, "below the last cell"


@pytest.mark.slow
def test_a_student_moves_every_knob_and_finds_all_of_it_the_next_day(lab, open_notebook):
    from playwright.sync_api import expect

    page = open_notebook("02_generator")
    run_all_cells(page)
    page.locator("progress").first.wait_for(state="attached", timeout=120_000)  # the live table
    page.get_by_text(re.compile(r"^done: .*02_generator")).wait_for(state="attached", timeout=180_000)
    assert page.locator(f".jp-RenderedText{SERVERS}").count() == 0
    move_all(page)
    answer_wrongly(page, "02_generator")
    stored = lab[1] / "runs/smoke/digits/seed0/02_generator"
    before = {path.name: path.stat().st_mtime_ns for path in stored.iterdir()}
    page.close()

    # The next day: a new kernel
    for session in json.load(urllib.request.urlopen(f"{lab[0]}/api/sessions")):
        urllib.request.urlopen(urllib.request.Request(f"{lab[0]}/api/sessions/{session['id']}", method="DELETE"))
    page = open_notebook("02_generator")
    run_all_cells(page)
    page.get_by_text("generator: is trained already").wait_for(state="attached", timeout=120_000)
    page.get_by_text(re.compile("found, made on")).wait_for(state="attached", timeout=120_000)
    panel = page.locator(".widget-html-content img[alt]").last
    panel.scroll_into_view_if_needed()
    expect(panel).to_be_visible()
    move_all(page)
    assert {path.name: path.stat().st_mtime_ns for path in stored.iterdir()} == before


def move_all(page, knobs=5):
    """Every slider and list of the notebook, sliders by the keyboard alone; their picture and words must change.

    Texts are asked of the document: as drawn (inner_text), what JupyterLab has out of sight is empty.
    """
    from playwright.sync_api import expect

    found = page.locator(".widget-slider, .widget-dropdown")
    found.first.wait_for(state="attached", timeout=60_000)
    assert found.count() == knobs
    for k in range(knobs):
        knob = found.nth(k)
        knob.scroll_into_view_if_needed()
        picture = knob.locator("xpath=ancestor::*[contains(@class, 'widget-vbox')][1]").locator("img")
        words = picture.get_attribute("alt")
        if knob.locator("select").count():
            knob.locator("select").select_option(index=1)
        else:
            handle = knob.locator(".noUi-handle, [role=slider]").first
            expect(handle).to_have_attribute("aria-label", knob.locator(".widget-label").text_content(), timeout=10_000)
            handle.focus()
            now, most = (float(handle.get_attribute(f"aria-value{which}")) for which in ("now", "max"))
            for _ in range(2):
                page.keyboard.press("ArrowLeft" if now == most else "ArrowRight")
        expect(picture).not_to_have_attribute("alt", words, timeout=30_000)
        assert picture.get_attribute("src").startswith("data:image/png")


# Notebook -> knobs of its panels, in the order in which they can be run; 00, 02 and 09 have tests of their own
KNOBS = {
    "01_teacher": 0,
    "03_checkpoints": 1,
    "04_tuning": 4,
    "05_distillation": 2,
    "06_membership": 4,
    "10_compare": 0,
    "08_audit": 2,
    "07_shadow": 0,
    "few_steps": 0,
}


@pytest.mark.slow
def test_all_other_notebooks_are_run_moved_and_answered_wrongly(lab, open_notebook):
    from playwright.sync_api import expect

    for name, knobs in KNOBS.items():
        if name == "03_checkpoints" and not (lab[1] / "runs/smoke/digits/seed0/02_generator").exists():
            run(lab, "--until", "generator")
        if name == "08_audit":
            run(lab, "--audit", "2")
        page = open_notebook(name)
        run_all_cells(page)
        last = page.locator(".jp-CodeCell").last.locator(".jp-InputPrompt")
        expect(last).to_have_text(re.compile(r"\[\d+\]"), timeout=240_000)
        assert page.locator(f".jp-RenderedText{SERVERS}").all_text_contents() == [], name
        if knobs:
            move_all(page, knobs)
        answer_wrongly(page, name)
        page.close()

    # A smoke run is no release, and 09 says so where the eye is
    page = open_notebook("09_release")
    run_all_cells(page)
    line = page.locator(".jp-RenderedText", has_text="Not run, because a cell above failed. InputError: ")
    line.wait_for(state="attached", timeout=120_000)
    assert "smoke" in line.text_content()
    assert "Traceback" not in line.text_content()


def run(lab, *options):
    """The project's command line beside JupyterLab."""
    call = [sys.executable, stages.ROOT / "run_all.py", "--profile", "smoke", "--threads", "1", *options]
    places = ["--runs-dir", lab[1] / "runs", "--figures-dir", lab[1] / "figures"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KR_")}
    done = subprocess.run([*call, *places], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def answer_wrongly(page, name):
    """A text and then a number far off as answer to each question: a hint without a traceback, and never "Right!"."""
    from playwright.sync_api import expect

    cells = json.loads((stages.NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    asked = ["".join(cell["source"]) for cell in cells if "exercise" in cell["metadata"].get("tags", [])]
    for question, check in zip(asked[::2], asked[1::2]):
        names = re.findall(r"^(\w+) = None", question, re.M)
        told = page.locator(".jp-CodeCell", has_text=check.splitlines()[-1]).locator(".jp-OutputArea-output")
        was = question.splitlines()[0]
        for wrong in ('"dog"', "-1234.5"):
            before = told.text_content()
            new = "\n".join(f"{each} = {wrong}" for each in names)
            answer(page, was, new)
            expect(told).not_to_have_text(before, timeout=30_000)
            assert "Traceback" not in told.text_content()
            assert "Right!" not in told.text_content()
            was = new.splitlines()[0]

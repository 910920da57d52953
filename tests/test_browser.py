"""JupyterLab in a real browser: a student opens a notebook, runs it, and moves a knob of its panel."""

import contextlib
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

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"


@pytest.fixture
def lab(tmp_path):
    """A JupyterLab on a copy of the notebooks, with notebook 02 set to the smoke profile; yields its address."""
    folder = tmp_path / "notebooks"
    shutil.copytree(stages.NOTEBOOKS, folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    path = folder / "02_generator.ipynb"
    path.write_text(path.read_text().replace('profile: str = \\"quick\\"', 'profile: str = \\"smoke\\"'))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    call = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    call += ["--IdentityProvider.token=", f"--notebook-dir={folder}", "--LabApp.collaborative=False"]
    environment = {**os.environ, "PYTHONPATH": str(stages.ROOT), "JUPYTER_PREFER_ENV_PATH": "1"}
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "s"), "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "w")}
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(call, stdout=log, stderr=log, env=environment)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


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


@pytest.mark.slow
def test_a_student_moves_a_knob_in_jupyterlab(lab):
    if CHROMIUM is None:
        assert not os.environ.get("KR_REQUIRE_BROWSER"), "chromium must be installed here"
        pytest.skip("install chromium to run this")
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{lab}/lab/tree/02_generator.ipynb?reset", timeout=90_000)
        page.locator(".jp-Notebook h1").first.wait_for(timeout=90_000)
        run_all_cells(page)
        slider = page.locator(".widget-slider", has_text="guidance")
        slider.wait_for(state="attached", timeout=180_000)
        # The notebook is done when its last cell says so; panels stay alive after that.
        page.get_by_text(re.compile(r"^done: .*02_generator")).wait_for(state="attached", timeout=180_000)
        assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
        slider.scroll_into_view_if_needed()
        picture = page.locator(".widget-output img").first
        expect(picture).to_be_visible(timeout=60_000)
        before = picture.get_attribute("src")
        handle = slider.locator(".noUi-handle, [role=slider]").first
        handle.focus()
        for _ in range(4):
            page.keyboard.press("ArrowRight")
        expect(picture).not_to_have_attribute("src", before, timeout=60_000)
        assert page.locator(".widget-readout", has_text="3.00").count() == 1, "1 and four steps of 0.5"
        browser.close()

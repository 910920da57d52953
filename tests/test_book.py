"""The book and the folder for a class: built from a real run on digits, read from disk in a real browser, offline."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.parse

import pytest

import run_all
from kr_utils import InputError, runs, stages
from kr_utils.driver import book, classroom

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
NAMES = [name for name, _ in stages.STAGES.values()]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A smoke run of digits up to notebook 02, and the published figures; the folder of both."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KR_MEASURE", "0")
        options = ["--runs-dir", str(folder / "runs"), "--figures-dir", str(folder / "figures"), "--threads", "1"]
        assert run_all.main(["--profile", "smoke", "--until", "generator", *options]) == 0
    shutil.copytree(stages.ROOT / "figures/published/quick", folder / "figures/smoke")
    table = folder / "figures/smoke/results.csv"
    table.write_text(table.read_text().replace("\nquick,", "\nsmoke,"))
    return folder


@pytest.fixture(scope="module")
def pages(made):
    out = made / "book"
    book.build("smoke", "digits", 0, made / "runs", made / "figures", out)
    return out


@pytest.mark.slow
def test_every_link_of_the_book_resolves_inside_it(pages):
    files = sorted(pages.glob("*.html"))
    assert {path.stem for path in files} == {*NAMES, *book.EXTRA, "gallery", "index"}
    for path in files:
        text = path.read_text()
        anchors = set(re.findall(r'\bid="([^"]+)"', text))
        for kind, address in re.findall(r'\b(href|src)="([^"]*)"', text):
            if address.startswith("data:"):
                continue
            assert not re.match("[a-z]+:|//", address), f"{path.name}: {kind} {address} is outside"
            place, _, anchor = urllib.parse.unquote(address).partition("#")
            assert not place or (pages / place).is_file(), f"{path.name}: {address}"
            assert place or anchor in anchors, f"{path.name}: {address}"
        assert "$" not in re.sub(r"(?s)<(pre|code|script)\b.*?</\1>", "", text), f"{path.name}: a formula was left"


@pytest.mark.slow
def test_the_book_shows_results_and_every_picture_has_a_text(pages):
    second = (pages / "02_generator.html").read_text()
    assert "largest difference to the library" in second, "an executed notebook"
    assert "Run on 20" in second
    assert "Not run yet" in (pages / "06_membership.html").read_text()
    for path in pages.glob("*.html"):
        for picture in re.findall("<img[^>]*>", path.read_text()):
            alt = re.search('alt="([^"]*)"', picture)
            assert alt, picture[:200]
            assert len(alt[1]) > 8, picture[-200:]
            assert "No description" not in alt[1], path.name
    gallery = (pages / "gallery.html").read_text()
    published = stages.ROOT / "figures/published/quick"
    shown = gallery.count("<figure>")
    assert shown == len(list(published.glob("*.png")))
    audits = [path for kind in ("audit", "plane", "volume") for path in published.glob(f"{kind}-*.png")]
    assert gallery.count("--audit 16") == len(audits) >= 2
    tabled = "run_all.py --profile smoke --datasets digits --seeds 0,1,2,3,4 "
    assert gallery.count(tabled) == shown - len(audits), "of the table's five seeds, not of the run's one"


@pytest.mark.slow
def test_everybody_can_read_the_book_without_a_network(pages):
    if CHROMIUM is None:
        assert not os.environ.get("KR_REQUIRE_BROWSER"), "chromium must be installed here"
        pytest.skip("install chromium to run this")
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    asked = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        page = browser.new_context(offline=True).new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: asked.append(f"error: {error}"))
        for path in sorted(pages.glob("*.html")):
            page.goto(path.as_uri())
            found = Axe().run(page).response["violations"]
            serious = [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]
            assert serious == [], path.name

        # Search, by the keyboard alone; code folds
        page.goto((pages / "index.html").as_uri())
        page.get_by_role("searchbox", name="Search").fill("guidance loss")
        page.locator("#found a").first.press("Enter")
        page.wait_for_url(re.compile("generator|tuning|few_steps"))
        page.goto((pages / "02_generator.html").as_uri())
        code = page.locator("details.code .highlight").first
        assert code.is_visible()
        page.get_by_role("button", name="Hide all code").press("Enter")
        assert not code.is_visible()
        browser.close()
    assert all(url.startswith(("file://", "data:")) for url in asked), "nothing from outside"


def test_no_book_without_a_run_and_none_over_other_files(tmp_path, capsys):
    options = ["--runs-dir", str(tmp_path / "runs"), "--out", str(tmp_path / "book")]
    assert book.main(options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no finished run of digits, profile quick, seed 0")
    assert "run `python run_all.py --profile quick --datasets digits --seeds 0` first" in error
    assert not (tmp_path / "book").exists()


@pytest.mark.slow
def test_a_book_is_written_over_and_nothing_else(made, pages):
    other = made / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty and no book"):
        book.build("smoke", "digits", 0, made / "runs", made / "figures", other)
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]
    (pages / "old.html").write_text("")
    book.build("smoke", "digits", 0, made / "runs", made / "figures", pages)
    assert not (pages / "old.html").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[02](02_generator.ipynb)", "[02](02_generator.html)"),
        ("[settings.toml](settings.toml)", "`settings.toml`"),
        ("[KR](https://doi.org/10)", "[KR](https://doi.org/10)"),
    ],
)
def test_links_of_notebooks_lead_to_pages(text, words):
    assert book._links(text) == words


def test_formulas_become_mathml_and_prices_stay():
    assert book._formulas("a $x_1$ b").startswith("a <math")
    assert 'display="block"' in book._formulas("$$\\frac{a}{b}$$")
    assert book._formulas("costs $5") == "costs $5"


@pytest.mark.slow
def test_the_folder_for_a_class_holds_a_run_that_its_notebooks_find(made, tmp_path):
    (made / "runs/smoke/digits/seed0/06_membership").mkdir(exist_ok=True)
    (made / "runs/smoke/digits/seed0/06_membership/manifest.json").write_text("{}")
    folder = tmp_path / "stick"
    mine = made / "runs/laptop/mine/seed0/06_membership"  # a medical run, as far as the folder looks at it
    mine.mkdir(parents=True)
    (mine / "manifest.json").write_text("{}")
    source = tmp_path / "data"
    source.mkdir()
    (source / "mine.npz").write_bytes(b"images")
    described = {"title": "Mine", "class_names": ["a", "b"], "mirror": "none", "licence": "CC BY 4.0"}
    (source / "mine.json").write_text(json.dumps(described))
    taken = [("smoke", "digits"), ("laptop", "mine")]
    with pytest.raises(InputError, match=r"breastmnist\.npz is not there; name its folder with --data-root"):
        classroom.fill(folder, [("laptop", "breastmnist")], 0, fake_run(tmp_path), made / "figures", str(source))
    classroom.fill(folder, taken, 0, made / "runs", made / "figures", str(source))
    assert {path.name for path in (folder / "data").iterdir()} == {"mine.npz", "mine.json"}
    assert (folder / "project/runs/laptop/mine/seed0/06_membership/manifest.json").is_file()
    settings = tomllib.loads((folder / "project/notebooks/settings.toml").read_text())
    assert (settings["dataset"], settings["profile"], settings["seed"]) == ("digits", "smoke", 0)
    assert (folder / "book/index.html").is_file()
    project = folder / "project"
    assert {"notebooks", "kr_utils", "docs", "runs", "requirements.txt"} <= {path.name for path in project.iterdir()}
    assert not (project / ".git").exists()

    # In the copy, as on another computer: the Generator is found, and nothing is stale
    code = (
        "from kr_utils import data, profiles, runs\n"
        "ds, budget = data.load('digits'), profiles.budget('generator', 'smoke')\n"
        "where = dict(dataset='digits', profile='smoke', seed=0, checksum=ds.checksum)\n"
        "print('found', runs.begin('generator', budget, **where, retrain=False).found is not None)"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("KR_", "PYTHONPATH"))}
    environment |= {"PYTHONPATH": str(project)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=project, env=environment)
    assert out.stdout.strip().endswith("found True"), out.stdout + out.stderr
    with pytest.raises(InputError, match="not empty"):
        classroom.fill(folder, taken, 0, made / "runs", made / "figures", str(source))
    assert runs.find(project / "runs", "smoke")


def fake_run(folder):
    last = folder / "runs/laptop/breastmnist/seed0/06_membership"
    last.mkdir(parents=True)
    (last / "manifest.json").write_text("{}")
    return folder / "runs"


def test_figures_name_the_commands_that_made_them(tmp_path):
    shown = stages.ROOT / "figures/published/laptop"
    each = book.tabled(shown)
    assert "--audit 16" in book.made_by(shown / "plane-breastmnist-0.png", each, "usual")
    one = book.made_by(shown / "roc-retinamnist.png", each, "usual")
    assert re.search(r"--datasets retinamnist --seeds 0,1,2 ", one)
    assert "breastmnist" not in one
    both = book.made_by(shown / "brings.png", each, "usual")
    assert "--datasets breastmnist " in both
    assert "--datasets retinamnist " in both
    assert book.tabled(tmp_path) == {}
    assert book.made_by(tmp_path / "brings.png", {}, "usual") == "usual"
    (tmp_path / "results.csv").write_text("profile,dataset\nlap")
    assert book.tabled(tmp_path) == {}, "a broken table costs the captions, not the book"


def test_a_folder_for_a_class_needs_a_finished_run(tmp_path, capsys):
    assert classroom.main(["--runs-dir", str(tmp_path), "--out", str(tmp_path / "stick")]) == 2
    assert "no finished run of digits, profile quick, seed 0" in capsys.readouterr().err
    assert not (tmp_path / "stick").exists()


@pytest.mark.parametrize("command", [book, classroom])
@pytest.mark.parametrize("out", ["/dev/null", "/dev/null/below", "file", "file/below"])
def test_something_else_where_the_folder_is_to_be_is_one_line_that_says_what_to_do(command, out, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "runs/quick/digits/seed0/06_membership").mkdir(parents=True)
    (tmp_path / "runs/quick/digits/seed0/06_membership/manifest.json").write_text("{}")
    place = tmp_path / out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "find", lambda root, profile: {("digits", 0): {"start": None}})
        assert command.main(["--runs-dir", str(tmp_path / "runs"), "--out", str(place)]) == 2
    what = place if place.exists() else place.parent
    words = f"error: --out {place}: {what} is not a folder; name a new or empty folder\n"
    assert capsys.readouterr().err == words
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(("command", "option"), [(book, "--dataset"), (classroom, "--datasets")])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--profile", "foo"], "error: unknown profile 'foo'; choose one of: smoke, quick, laptop, paper\n"),
        (["--seed", "-1"], "error: seed is '-1'; give a whole number from 0 to 2147483647\n"),
    ],
)
def test_no_command_is_advised_that_would_be_refused(command, option, given, words, tmp_path, capsys):
    assert command.main(["--runs-dir", str(tmp_path), "--out", str(tmp_path / "out"), option, "digits", *given]) == 2
    assert capsys.readouterr().err == words
    assert not (tmp_path / "out").exists()


def test_a_profile_before_a_dataset_is_checked_too(tmp_path, capsys):
    given = ["--runs-dir", str(tmp_path), "--out", str(tmp_path / "out"), "--datasets", "foo:digits"]
    assert classroom.main(given) == 2
    assert capsys.readouterr().err.startswith("error: unknown profile 'foo'; choose one of")


def test_a_folder_that_the_system_refuses_is_told_with_what_to_do(tmp_path, capsys):
    def work():
        raise PermissionError(13, "Permission denied", str(tmp_path))

    assert book.command(work) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {tmp_path}: Permission denied; name a folder you may write to")
    assert told.count("\n") == 1

"""`make book`: the executed notebooks of a run as a linked site that needs no network, with search and a gallery.

nbconvert turns notebooks into HTML, latex2mathml their formulas into MathML, which browsers draw themselves.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kr_utils import InputError, owned, parameters, paths, profiles, runs, stages
from kr_utils.runs import copies

MARKER = "book.json"  # in a folder that may be written over
EXTRA = ("few_steps",)  # notebooks that are no stage: shown as they are in the repository
STYLE = Path(__file__).with_name("book.css")
SCRIPT = Path(__file__).with_name("book.js")

TEMPLATE = """
{%- extends 'basic/index.html.j2' -%}
{% block input %}<details class="code" open><summary>Code</summary>{{ super() }}</details>{% endblock input %}
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="style.css">
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<nav aria-label="Pages"><ul>{nav}</ul></nav>
<search><label>Search <input id="query" type="search" autocomplete="off"></label>
<ul id="found" aria-live="polite" aria-label="Search results"></ul></search>
<button id="fold" type="button" aria-pressed="false">Hide all code</button>
</header>
<main id="content">
{body}
</main>
<footer>{foot}</footer>
<script src="search.js"></script><script src="book.js"></script>
</body>
</html>
"""


@dataclass(frozen=True)
class Page:
    """One page: its file, title, content and the line below it."""

    name: str
    title: str
    body: str
    foot: str = ""


def build(profile: str, dataset: str, seed: int, root: Path, figures: Path, out: Path) -> Path:
    """Write the book of a run.

    Parameters
    ----------
    root, figures : folders of runs and figures; out : where the book goes, an empty folder or an earlier book

    Returns
    -------
    its first page

    Raises
    ------
    InputError
        There is no finished stage of this run, or `out` holds something else.
    """
    # What there is
    found = runs.find(root, profile).get((dataset, seed), {})
    compare = runs.read(runs.stage_dir(root, profile, "", 0, "compare"))
    if compare:
        found["compare"] = compare
    command = stages.command({"--profile": profile, "--datasets": dataset, "--seeds": seed})
    if not set(found) - {"compare"}:
        raise InputError(
            f"no finished run of {dataset}, profile {profile}, seed {seed} in {root}: run `{command}` first"
        )
    require_folder(out)
    if out.exists() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise InputError(f"--out {out}: not empty and no book; name another folder")

    # Pages: the notebooks in order, the gallery, and a first one that leads to them
    pages = [notebook_page(stage, found.get(stage)) for stage in stages.STAGES]
    pages += [_page(name, _stored(stages.NOTEBOOKS / f"{name}.ipynb"), "Not part of a run.") for name in EXTRA]
    pictures = sorted((figures / profile).glob("*.png"))
    pages.append(gallery(pictures, command))
    pages.insert(0, front(pages, profile, dataset, seed, command))

    # Files, the old ones of an earlier book removed before
    for old in paths.listed(out) if out.exists() else []:
        owned.remove(old)
    owned.make(out / "figures")
    owned.write(out / MARKER, json.dumps({"profile": profile, "dataset": dataset, "seed": seed}) + "\n")
    for page in pages:
        owned.write(out / f"{page.name}.html", shell(page, pages))
    for picture in pictures:
        owned.write(out / "figures" / picture.name, picture.read_bytes())
    owned.write(out / "style.css", STYLE.read_text(encoding="utf-8") + _highlighting())
    owned.write(out / "book.js", SCRIPT.read_text(encoding="utf-8"))
    owned.write(out / "search.js", f"const SECTIONS = {json.dumps(sections(pages), ensure_ascii=False)};\n")
    return out / "index.html"


def shell(page: Page, pages: list[Page]) -> str:
    """A whole page around its content."""
    links = []
    for other in pages:
        here = ' aria-current="page"' if other is page else ""
        links.append(f'<li><a href="{other.name}.html"{here}>{html.escape(other.title)}</a></li>')
    foot = html.escape(page.foot)
    return PAGE.format(title=html.escape(page.title), nav="".join(links), body=page.body, foot=foot)


# ------------------------------------------------------------------ notebooks


def notebook_page(stage: str, done: runs.Done | None) -> Page:
    """The executed notebook of a finished stage; the one in the repository where there is none."""
    name = stages.STAGES[stage][0]
    copy = done.path / copies.NAME if done else None
    if copy is None or not copy.is_file():
        return _page(name, _stored(stages.NOTEBOOKS / f"{name}.ipynb"), "Not run yet: without results.")
    made = done.manifest
    where = made["hardware"]["gpu"] or made["hardware"]["cpu"]
    words = copies.told(done)
    foot = f"Run on {made['started'][:10]} in {made['seconds']:.0f} s on {where}, "
    foot += f"{made['hardware']['threads']} thread(s), "
    foot += f"torch {made['versions']['torch']}, fingerprint {made['fingerprint']}{', but ' + words if words else ''}."
    return _page(name, _stored(copy), foot)


def _stored(path: Path):
    """A notebook's file, as nbformat's node."""
    import nbformat

    try:
        return nbformat.reads(owned.read_text(path), as_version=4)
    except Exception as error:  # nbformat has errors of its own for what is no notebook
        raise InputError(f"{path}: not a notebook ({str(error)[:80]})") from error


def _page(name: str, node, foot: str) -> Page:
    """A notebook as HTML: formulas as MathML, links to other notebooks to their pages, every picture with a text."""
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    # Prepare the cells
    heading = title = name
    for cell in node.cells:
        text = cell.source
        if cell.cell_type == "markdown":
            found = re.findall(r"(?m)^(#+) (.+)$", text)
            heading = found[-1][1] if found else heading
            title = next((words for level, words in found if level == "#"), title)
            cell.source = _formulas(_links(text))
            continue
        cell.outputs = _merged(cell.get("outputs", []))
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                output.setdefault("metadata", {}).setdefault("image/png", {}).setdefault("alt", f"Figure: {heading}")

    # Convert
    loader = DictLoader({"book.html.j2": TEMPLATE})
    exporter = HTMLExporter(extra_loaders=[loader], template_file="book.html.j2", exclude_anchor_links=True)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    body, _ = exporter.from_notebook_node(node)
    parts = body.split("<table")
    wide = [
        f'<div class="wide" tabindex="0" role="group" aria-label="Table {k}"><table{part}'
        for k, part in enumerate(parts)
    ]
    body = parts[0] + "".join(wide[1:]).replace("</table>", "</table></div>").replace("<th></th>", "<td></td>")
    return Page(name, title, body, foot)


def _merged(outputs: list) -> list:
    """Outputs without live widgets, consecutive lines of one stream as one."""
    merged = []
    for output in outputs:
        before = merged[-1] if merged else {}
        if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
            continue
        if output["output_type"] == "stream" and before.get("name") == output["name"]:
            before["text"] = "".join(before["text"]) + "".join(output["text"])
        else:
            merged.append(output)
    return merged


def _links(text: str) -> str:
    """Links to notebooks go to their pages; to other files of the repository, which the book has not, nowhere."""
    pages = {*(notebook for notebook, _ in stages.STAGES.values()), *EXTRA}

    def target(match: re.Match) -> str:
        words, address = match[1], match[2]
        if address.removesuffix(".ipynb") in pages:
            return f"[{words}]({address.removesuffix('.ipynb')}.html)"
        return match[0] if re.match("https?://", address) else f"`{words}`"

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", target, text)


def _formulas(text: str) -> str:
    """$...$ and $$...$$ as MathML."""
    from latex2mathml.converter import convert

    def drawn(match: re.Match) -> str:
        display = match[1] is not None
        return convert(match[1] or match[2], display="block" if display else "inline")

    return re.sub(r"\$\$(.+?)\$\$|(?<![\\$\w])\$([^$\n]+?)\$", drawn, text, flags=re.S)


def _highlighting() -> str:
    """Colours of code."""
    from pygments.formatters import HtmlFormatter

    return "\n" + HtmlFormatter(style="default").get_style_defs(".highlight") + "\n"


# ------------------------------------------------------------------ other pages


def front(pages: list[Page], profile: str, dataset: str, seed: int, command: str) -> Page:
    """The first page: what this is, and what is where."""
    lines = []
    for page in pages:
        told = re.search(r"<p>(.+?)</p>", page.body, re.S)
        first = re.sub(r"<[^>]+>", "", told[1]).split(". ")[0].strip().rstrip(".") if told else ""
        lines.append(f'<li><a href="{page.name}.html">{html.escape(page.title)}</a><br>{first}.</li>')
    body = (
        "<h1>Knowledge Recycling</h1><p>Can I train on synthetic images instead of my patients' images, what accuracy "
        "do I lose, and what still leaks? These are the executed notebooks of one run, to be read without running "
        "them.</p>"
        f"<p>Profile {html.escape(profile)}, dataset {html.escape(dataset)}, seed {seed}. Made again by "
        f"<code>{html.escape(command)}</code></p><ul class='pages'>{''.join(lines)}</ul>"
    )
    return Page("index", "Contents", body)


def tabled(folder: Path) -> dict[str, str]:
    """Dataset -> the command behind its rows in the folder's results.csv; empty where none can be read."""
    from kr_utils import results, results_file  # pandas comes with them

    try:
        text = results_file.load(folder / "results.csv", folder.name)
    except InputError:  # a caption is not worth the book; who draws the figures anew is told
        return {}
    return {name: results.command(rows) for name, rows in results.parsed(text).groupby("dataset")} if text else {}


def made_by(picture: Path, each: Mapping[str, str], usual: str) -> str:
    """The command behind a figure: that of its audit, or those of the datasets that it shows.

    each : of `tabled`; usual : where there is none
    """
    from kr_utils import audited

    of_audit = re.fullmatch(r"(?:audit|plane|volume)-(.+-\d+)", picture.stem)
    stored = picture.with_name(f"audit-{of_audit[1]}.json") if of_audit else None
    if stored and stored.is_file():
        found = [each for each in audited.read(picture.parent) if audited.name(each) == stored.name]
        return audited.command(found[0]) if found else usual
    dataset = picture.stem.partition("-")[2]
    return each.get(dataset) or "; ".join(each.values()) or usual


def gallery(pictures: list[Path], command: str) -> Page:
    """Every figure of the comparison, with what it shows and the command that makes it.

    command : where none is stored beside a figure
    """
    parts = ["<h1>Gallery</h1><p>Every figure of notebook 10, with what it shows and the command that draws it.</p>"]
    each = tabled(pictures[0].parent) if pictures else {}
    for picture in pictures:
        text = picture.with_suffix(".txt")
        told = html.escape(owned.read_text(text).strip() if text.is_file() else picture.stem)
        title = html.escape(picture.stem.replace("-", " "))
        image = f'<img src="figures/{html.escape(picture.name)}" alt="{told}" loading="lazy">'
        made = f"<code>{html.escape(made_by(picture, each, command))}</code>"
        parts.append(
            f"<section><h2>{title}</h2><figure>{image}<figcaption>{told}<br>{made}</figcaption></figure></section>"
        )
    if not pictures:
        parts.append("<p>No figures yet: they are drawn when all notebooks of a run are finished.</p>")
    return Page("gallery", "Gallery", "\n".join(parts))


def sections(pages: list[Page]) -> list[dict]:
    """What the search looks through: each section's page, place, title and plain text."""
    found = []
    for page in pages:
        text = re.sub(r"(?s)<(style|script|details|math)\b.*?</\1>", " ", page.body)
        for part in re.split(r"(?=<h[12]\b)", text):
            heading = re.match(r'<h[12]\b(?:[^>]*?\bid="([^"]*)")?[^>]*>(.*?)</h[12]>', part, re.S)
            plain = html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", part))).strip()
            if plain:
                title = html.unescape(re.sub(r"<[^>]+>", "", heading[2])).strip() if heading else page.title
                place = f"{page.name}.html" + (f"#{heading[1]}" if heading and heading[1] else "")
                found.append({"page": page.title, "title": title, "url": place, "text": plain[:2000]})
    return found


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(prog="python -m kr_utils.driver.book", description=__doc__)
    made.add_argument("--profile", default="quick")
    made.add_argument("--dataset", default="digits")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--runs-dir", default="")
    made.add_argument("--figures-dir", default="")
    made.add_argument("--out", default=str(stages.ROOT / "book"), help="an empty folder, or an earlier book")
    return made


def main(arguments: list[str]) -> int:
    """The command; prints the first page's place."""
    given = parser().parse_args(arguments)

    def first_page() -> Path:
        require_run(given.profile, given.dataset, given.seed)
        root, figures = paths.runs_root(given.runs_dir), paths.figures_root(given.figures_dir)
        return build(given.profile, given.dataset, given.seed, root, figures, paths.absolute(given.out, "--out"))

    return command(first_page)


def require_run(profile: str, dataset: str, seed: int) -> None:
    """InputError for what cannot be a run: an unknown profile, or a seed out of range."""
    parameters.check({"dataset": dataset, "profile": profile, "seed": seed})
    profiles.budget("start", profile)


def require_folder(out: Path) -> None:
    """InputError where a folder is to be made and something else lies there, or above it."""
    there = next(place for place in (out, *out.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise InputError(f"--out {out}: {there} is not a folder; name a new or empty folder")


def command(work: Callable[[], Path]) -> int:
    """Do it and print where the result is; what cannot be done is one line. Returns the exit code."""
    try:
        print(work())
    except (InputError, OSError) as error:
        words = str(error)
        if not isinstance(error, InputError):
            words = f"{error.filename or 'a file'}: {error.strerror or error}; name a folder you may write to, with "
            words += "space left, with --out; what is read must be readable"
        print(f"error: {words}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

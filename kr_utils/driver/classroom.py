"""`make classroom`: a folder for a stick, from which a laptop without network starts in minutes.

It holds the project with a filled runs/, the data, the packages as wheels, the book, and a page of install lines.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from kr_utils import InputError, data, owned, paths, published, stages
from kr_utils.driver import book

PROJECT, WHEELS, DATA = "project", "wheels", "data"
LINES = """Knowledge Recycling, for a class: no network needed

Copy this folder to the laptop's disk first: it is slow to run from a stick. Python {python} must be there
(`python3 --version`; another 3.x needs other wheels). Then, in a terminal, in this folder:

Linux, and Windows in WSL (`wsl --install` once, with network; then in its Ubuntu terminal):
    cd {project}
    python3 -m venv .venv
    .venv/bin/python -m pip install --no-index --find-links ../{wheels} -r requirements.txt -e .
    KR_DATA="$PWD/../{data}" .venv/bin/python -m kr_utils.driver.lab

macOS: the same lines, if wheels for macOS were added (ARGS="--also macosx_14_0_arm64"; there are: {platforms}).

Windows without WSL cannot run the notebooks; open book/index.html in any browser: all notebooks and their results.

JupyterLab opens notebook 00. Results of {what} are in {project}/runs, so that notebooks 00 to 06 and 10 run in
seconds and in any order. `retrain = True` in a notebook's first cell trains again. The notebooks open the first of
them; for another one, write its dataset and profile into {project}/notebooks/settings.toml.
"""


def fill(folder: Path, taken: list[tuple[str, str]], seed: int, root: Path, figures: Path, data_root: str = "") -> None:
    """Everything but the wheels and the page of install lines: the project with these runs, their data, the book.

    Parameters
    ----------
    taken : (profile, dataset) of each run; the book and the notebooks' settings are of the first

    Raises
    ------
    InputError
        The folder is not empty, or a run or its data file is missing.
    """
    # Before anything is copied
    for each, name in taken:
        book.require_run(each, name, seed)
    book.require_folder(folder)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"--out {folder}: not empty; name another folder, or remove it")
    made = {pair: root / pair[0] / pair[1] / f"seed{seed}" for pair in taken}
    for (profile, name), run in made.items():
        last = stages.STAGES["membership"][0]
        if not (run / last / "manifest.json").is_file():
            command = f"python run_all.py --profile {profile} --datasets {name} --seeds {seed}"
            raise InputError(f"no finished run of {name}, profile {profile}, seed {seed}: run `{command}` first")
    needed = {name: files_of(name, data_root) for _, name in taken}

    # The project as it is committed, its runs, the book
    project = folder / PROJECT
    for name in tracked():
        if (stages.ROOT / name).is_file():
            target = project / name
            owned.make(target.parent)
            shutil.copyfile(stages.ROOT / name, target)
    compare = [
        found for profile in dict.fromkeys(profile for profile, _ in taken) for found in runs_of_compare(root, profile)
    ]
    for source in [*made.values(), *compare]:
        shutil.copytree(source, project / "runs" / source.relative_to(root), ignore=shutil.ignore_patterns("*.partial"))
    owned.make(folder / DATA)
    for name in dict.fromkeys(file for names in needed.values() for file in names):
        owned.make((folder / DATA / name).parent)
        shutil.copyfile(data.data_root(data_root) / name, folder / DATA / name)

    # The notebooks open the first run
    profile, dataset = taken[0]
    settings = project / "notebooks/settings.toml"
    text = owned.read_text(settings)
    for key, value in (("dataset", dataset), ("profile", profile), ("seed", seed)):
        text = re.sub(rf"(?m)^{key} = \S+", f"{key} = {json.dumps(value)}", text)
    owned.write(settings, text)
    book.build(profile, dataset, seed, root, figures, folder / "book")


def files_of(name: str, data_root: str) -> list[str]:
    """The files of a dataset below the data folder; InputError where one is not there."""
    info, folder = data.require_name(name, data_root), data.data_root(data_root)
    if info.source == "sklearn":
        return []  # the package brings them along
    names = [f"{name}.npz", f"{name}.json"] if info.source == "own" else published.files(name)
    if missing := [each for each in names if not (folder / each).is_file()]:
        raise InputError(f"{folder}: {missing[0]} is not there; name its folder with --data-root")
    return list(names)


def runs_of_compare(root: Path, profile: str) -> list[Path]:
    """The folder of the comparison, if there is one."""
    folder = root / profile / stages.STAGES["compare"][0]
    return [folder] if folder.is_dir() else []


def tracked() -> list[str]:
    """Files of the repository, those of others in its folder left out."""
    call = ["git", "-C", str(stages.ROOT), "ls-files", "-z"]
    try:
        out = subprocess.run(call, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(f"{stages.ROOT} is no git checkout, whose files are copied; clone the repository") from error
    return [name for name in out.stdout.decode().split("\0") if name]


def wheels(folder: Path, platforms: list[str], options: list[str]) -> None:
    """Every package that requirements.txt names, what those need and what installs the project, as wheels.

    platforms : other systems, as pip names them; options : for pip
    """
    target, python = folder / WHEELS, [sys.executable, "-m", "pip"]
    owned.make(target)
    pins = ["-r", str(stages.ROOT / "requirements.txt"), "setuptools>=77"]  # which installs the project itself
    calls = [[*python, "wheel", *options, "-w", str(target), *pins]]  # packages without wheels are built: they are pure
    for platform in platforms:
        only = ["--platform", platform, "--only-binary=:all:", "--find-links", str(target)]
        calls.append([*python, "download", *options, *only, "-d", str(target), *pins])
    for call in calls:
        if subprocess.run(call).returncode:
            raise InputError("pip could not fetch all wheels (its lines are above); try again, with network")


def main(arguments: list[str]) -> int:
    """The command."""
    made = argparse.ArgumentParser(prog="python -m kr_utils.driver.classroom", description=__doc__)
    made.add_argument("--profile", default="quick")
    made.add_argument("--datasets", default="digits", help="finished runs to take along, the book's first; of another "
                      "profile as PROFILE:DATASET, such as digits,laptop:breastmnist")  # fmt: skip
    made.add_argument("--data-root", default="", help="folder of their data files, which go along")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--runs-dir", default="")
    made.add_argument("--figures-dir", default="")
    made.add_argument("--out", default=str(stages.ROOT / "classroom"), help="an empty folder")
    made.add_argument(
        "--also", action="append", default=[], help="wheels for another system, such as macosx_14_0_arm64"
    )
    made.add_argument("--pip", action="append", default=[], help="an option for pip, such as --pip=--quiet")
    given = made.parse_args(arguments)

    def made_of() -> Path:
        folder = paths.absolute(given.out, "--out")
        taken = [(profile or given.profile, name) for profile, _, name in (
            each.rpartition(":") for each in given.datasets.split(","))]  # fmt: skip
        root, figures = paths.runs_root(given.runs_dir), paths.figures_root(given.figures_dir)
        fill(folder, taken, given.seed, root, figures, given.data_root)
        wheels(folder, given.also, given.pip)
        python = ".".join(map(str, sys.version_info[:2]))
        what = ", ".join(f"{name} ({profile})" for profile, name in taken)
        here = {"python": python, "project": PROJECT, "wheels": WHEELS, "data": DATA, "what": what}
        owned.write(folder / "START.txt", LINES.format(**here, platforms=", ".join(given.also) or "none"))
        return folder

    return book.command(made_of)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

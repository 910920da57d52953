"""Which code a stage's numbers depend on."""

from __future__ import annotations

import ast
import functools
import hashlib
import json

from kr_utils import InputError, stages

# Files that draw or store but cannot change a number; only 08, which is all drawing, depends on the first two.
DRAWING = {"plots", "panels"}
PLUMBING = {"runs", "driver", "paths", "stages", "profiles", "resume"}


def code_hashes(stage: str) -> dict[str, str]:
    """Hashes of the code that a stage's numbers depend on: its notebook and the kr_utils files it reaches.

    Comments, docstrings and layout do not count (the parsed code is hashed), nor do cells tagged `parameters`,
    `figure` or `exercise`, nor files that only draw or store.
    """
    path = stages.NOTEBOOKS / f"{stages.STAGES[stage][0]}.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    skip = {"parameters", "figure", "exercise"} if stage != "compare" else {"parameters", "exercise"}
    sources = [
        "".join(cell["source"])
        for cell in cells
        if cell["cell_type"] == "code" and not skip & set(cell["metadata"].get("tags", []))
    ]
    code = "\n".join(sources)
    ignored = PLUMBING if stage == "compare" else PLUMBING | DRAWING
    try:
        hashes, todo = {"notebook": _code_hash(code)}, set(_imports(code))
    except SyntaxError as error:
        raise InputError(f"{path}: not valid Python ({error.msg}: {(error.text or '').strip()[:60]!r})") from error
    while todo:
        name = todo.pop()
        file = stages.ROOT / "kr_utils" / f"{name}.py"
        if name in hashes or name in ignored or not file.is_file():
            continue
        text = file.read_text(encoding="utf-8")
        hashes[name] = _code_hash(text)
        todo |= _imports(text)
    if "plots" in hashes:
        style = (stages.ROOT / "kr_utils/kr.mplstyle").read_bytes()
        hashes["kr.mplstyle"] = hashlib.sha256(style).hexdigest()[:16]
    return hashes


@functools.lru_cache(maxsize=256)  # a plan asks for the same files for every stage, dataset and seed
def _code_hash(code: str) -> str:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=256)
def _imports(code: str) -> frozenset[str]:
    """Names of the kr_utils modules that this code imports."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module == "kr_utils":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kr_utils."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("kr_utils.")}
    return frozenset(found)


def code_version() -> str:
    """Hash of all code that a stage or its driver runs: two computers with the same one run the same code."""
    digest = hashlib.sha256()
    for path in sorted([*(stages.ROOT / "kr_utils").rglob("*.py"), *stages.NOTEBOOKS.glob("*.ipynb")]):
        digest.update(f"{path.relative_to(stages.ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]

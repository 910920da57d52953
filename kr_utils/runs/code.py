"""Which code a stage's numbers depend on: its number cells, and the definitions of the method that they reach.

Where code lives decides whether it counts. The method, flat in kr_utils, counts as far as a notebook's number cells
reach it, definition by definition, so that a change of one function touches the stages that can call it and no
others. The store and the engine (runs/, driver/) only move files; the ground that they stand on holds names, folders
and budgets, whose values are part of a stage's identity themselves.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from kr_utils import InputError, stages

ALL = "*"  # every definition of a file
GROUND = {"stages", "owned", "paths", "profiles", "parameters"}
STYLE = "kr.mplstyle"  # counts where plots.py does
NOT_NUMBERS = {"parameters", "figure", "exercise"}  # tags of cells from which no number comes
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def code_hashes(stage: str, cells: list[str] | None = None) -> dict[str, str]:
    """Hashes of the code that a stage's numbers depend on: "notebook", and a name per file of the method.

    Comments, docstrings and layout do not count, nor do cells tagged `parameters`, `figure` or `exercise`; figures
    do count for the comparison, which is all drawing.

    Parameters
    ----------
    cells : the code that was run in place of the notebook's number cells; None: those of the notebook's file
    """
    path = stages.NOTEBOOKS / f"{stages.notebook(stage)}.ipynb"
    code = "\n".join(number_cells(stage) if cells is None else cells)
    try:
        return {"notebook": _digest(_text(code)), **_reached(code, _method())}
    except SyntaxError as error:
        raise InputError(f"{path}: not valid Python ({error.msg}: {(error.text or '').strip()[:60]!r})") from error


def number_cells(stage: str) -> list[str]:
    """Sources of the cells of a stage's notebook that can change a number, in order."""
    skip = NOT_NUMBERS - {"figure"} if stage == "compare" else NOT_NUMBERS
    return [source for source, tags, _ in notebook_cells(stage) if not skip & tags]


def notebook_cells(stage: str) -> list[tuple[str, set[str], str]]:
    """(source, tags, id) of the code cells of a stage's notebook, in order."""
    path = stages.NOTEBOOKS / f"{stages.notebook(stage)}.ipynb"
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return [
            ("".join(cell["source"]), set(cell["metadata"].get("tags", [])), cell.get("id", ""))
            for cell in cells
            if cell["cell_type"] == "code"
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a notebook ({str(error)[:80]}); restore it (git checkout notebooks)") from error


def code_version() -> str:
    """Hash of all code that a stage or its driver runs: two computers with the same one run the same code."""
    digest = hashlib.sha256()
    for path in sorted([*(stages.ROOT / "kr_utils").rglob("*.py"), *stages.NOTEBOOKS.glob("*.ipynb")]):
        digest.update(f"{path.relative_to(stages.ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _method() -> tuple[tuple[str, str], ...]:
    """(name, text) of every file of the method, and of the figures' style."""
    folder = stages.ROOT / "kr_utils"
    files = [path for path in sorted(folder.glob("*.py")) if path.stem not in GROUND | {"__init__"}]
    texts = [(path.stem, path.read_text(encoding="utf-8")) for path in files]
    return (*texts, (STYLE, (folder / STYLE).read_text(encoding="utf-8")))


LOADED, LOADED_FROM = dict(_method()), stages.ROOT  # what this process imports, as long as nobody edits it


def edited_since_start() -> list[str]:
    """Files of the method that are not as they were when this process began: what it computes is no longer theirs."""
    now = dict(_method()) if stages.ROOT == LOADED_FROM else LOADED
    others = [name for name in LOADED if name != STYLE and LOADED[name] != now.get(name)]
    return [f"{name}.py" for name in others if _plain_text(LOADED[name]) != _plain_text(now.get(name))]


# ------------------------------------------------------------- what reaches what


@dataclass
class _File:
    """A parsed file: its statements by the name that they define ("": those that run when it is imported)."""

    texts: dict[str, list[str]] = field(default_factory=lambda: {"": []})
    loads: dict[str, set[tuple[str, str]]] = field(default_factory=lambda: {"": set()})  # (name, attribute) read there
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)  # alias -> (file of the method, name or "")
    outside: dict[str, str] = field(default_factory=dict)  # alias -> the import of another package, as text


def definitions(code: str, method: tuple[tuple[str, str], ...]) -> dict[str, set[str]]:
    """File of the method -> the definitions in it that `code` can come to ("": what runs when it is imported)."""
    texts = {name: text for name, text in method if name != STYLE} | {"": code}  # parsed when something leads there

    # From definition to definition; a name that cannot be resolved stands for its whole file.
    found: dict[str, set[str]] = {}
    todo = [("", name) for name in _parse(code).loads]
    while todo:
        name, wanted = todo.pop()
        if name not in texts or wanted in found.setdefault(name, set()):
            continue
        found[name] |= {wanted, ""}
        loads = _parse(texts[name]).loads
        if wanted == ALL:
            todo += [(name, other) for other in loads]
        for read in loads.get(wanted, set()) | loads[""]:
            todo += _targets(name, *read, texts)
    found.pop("", None)
    return found


@functools.lru_cache(maxsize=64)  # a plan asks for the same code for every dataset and seed
def _reached(code: str, method: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Name of each file of the method that `code` reaches -> hash of the definitions in it that are reached."""
    texts = dict(method)
    hashes = {}
    for name, wanted in sorted(definitions(code, method).items()):
        file = _parse(texts[name])
        reads = {read for key in wanted for read, _ in file.loads.get(key, ())}
        imports = sorted(text for alias, text in file.outside.items() if alias in reads)
        hashes[name] = _digest("\n".join([*(t for key in sorted(wanted) for t in file.texts.get(key, ())), *imports]))
    if "plots" in hashes:
        hashes[STYLE] = _digest(texts[STYLE])
    return hashes


@functools.lru_cache(maxsize=256)
def _parse(text: str) -> _File:
    file, tree = _File(), _plain(text)
    for node in ast.walk(tree):  # imports inside functions, too
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                _bind(file, alias, node.module or "", _form(ast.ImportFrom(node.module, [alias], node.level)))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                file.outside[name] = _form(ast.Import([alias]))
    for node in tree.body:
        for name in _names(node):
            file.texts.setdefault(name, []).append(_form(node))
            file.loads.setdefault(name, set()).update(_loads(node, frozenset()))
    return file


def _bind(file: _File, alias: ast.alias, module: str, text: str) -> None:
    name, parts = alias.asname or alias.name, module.split(".")
    if parts[0] != "kr_utils":
        file.outside[name] = text
    elif len(parts) == 1:
        file.imports[name] = (alias.name, "")
    else:
        file.imports[name] = (parts[1], alias.name)


def _names(node: ast.stmt) -> list[str]:
    """Names that a statement of a file defines; [""] for one that does something, [] for what does not count."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return []
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
        return []  # not run where notebooks import the file
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        names = [leaf.id for leaf in ast.walk(node) if isinstance(leaf, ast.Name) and isinstance(leaf.ctx, ast.Store)]
        return names or [""]
    return [""]


def _targets(here: str, name: str, attribute: str, texts: dict[str, str]) -> list[tuple[str, str]]:
    """(file, definition) that a name read in the file `here` stands for; none for other packages and the wings."""
    file = _parse(texts[here])
    out = [(here, name)] if name in file.texts else []
    if name in file.imports:
        out.append(_resolve(*file.imports[name], attribute, texts))
    return out


def _resolve(name: str, inside: str, attribute: str, texts: dict[str, str]) -> tuple[str, str]:
    """Where a name of a file of the method is defined; (name, ALL) where that cannot be told."""
    wanted = inside or attribute
    while name in texts and wanted in _parse(texts[name]).imports:  # handed on from a third file
        name, wanted = _parse(texts[name]).imports[wanted]
    return name, wanted if name in texts and wanted in _parse(texts[name]).texts and wanted else ALL


def _loads(node: ast.AST, local: frozenset[str]) -> Iterator[tuple[str, str]]:
    """(name, attribute or "") of each name that a node reads and does not itself define, by Python's scopes."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        if node.value.id not in local:
            yield node.value.id, node.attr
        return
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Load) and node.id not in local:
            yield node.id, ""
        return
    inner = local
    if isinstance(node, SCOPES):
        inner = local | _bound(node)
    for key, value in ast.iter_fields(node):
        # Defaults belong to the outer scope, and annotations: they name classes whose methods may be called.
        outer = isinstance(node, SCOPES) and key in ("decorator_list", "args", "returns")
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _loads(child, local if outer else inner)
        if key == "generators":  # so does what a comprehension runs over first
            yield from _loads(value[0].iter, local)


def _bound(scope: ast.AST) -> frozenset[str]:
    """Names that a function, lambda or comprehension binds itself."""
    names, declared, todo = set(), set(), []
    if isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        names |= {node.arg for node in ast.walk(scope.args) if isinstance(node, ast.arg)}
        todo = list(scope.body) if isinstance(scope.body, list) else []
    else:
        todo = [comprehension.target for comprehension in scope.generators]
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
            names.add(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            declared |= set(node.names)
        if not isinstance(node, (*SCOPES, ast.ClassDef)):
            todo += ast.iter_child_nodes(node)
    return frozenset(names - declared)


@functools.lru_cache(maxsize=256)
def _plain(code: str) -> ast.Module:
    """The parsed code without docstrings."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, kinds) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _form(node) -> str:
    """A tree as text, the same in every version of Python: not `ast.unparse`, which prints f-strings in different ways.

    Fields that are empty do not count, for new versions have more of them; an import that is not lazy is one of 3.15.
    """
    if isinstance(node, ast.AST):
        if isinstance(node, ast.JoinedStr):  # some versions end it with an empty text
            values = [value for value in node.values if not (isinstance(value, ast.Constant) and value.value == "")]
            return f"JoinedStr({_form(values)})"
        fields = [(key, value) for key, value in ast.iter_fields(node) if value is not None and value != []]
        fields = [(key, value) for key, value in fields if key != "ctx" and (key, value) != ("is_lazy", 0)]
        return f"{type(node).__name__}({', '.join(f'{key}={_form(value)}' for key, value in fields)})"
    if isinstance(node, list):
        return f"[{', '.join(map(_form, node))}]"
    return ascii(node)


@functools.lru_cache(maxsize=256)
def _text(code: str) -> str:
    return _form(_plain(code))


def _plain_text(code: str | None) -> str:
    try:
        return "" if code is None else _text(code)
    except SyntaxError:
        return code


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]

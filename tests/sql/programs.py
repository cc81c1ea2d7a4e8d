"""Which statements each of our programs can send: read from the code, so that its role may do that and nothing else.

A program's files name functions of `sql`; those name other functions of it, and in the end named queries. Where a query is chosen
while the program runs, every query of its subject counts.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from sql.queries import load

ROOT: Final = Path(__file__).resolve().parents[2]
Name = tuple[str, str]
"""A module of `sql` and a name of its top level."""

_OPERATOR: Final = ("agents/reconcile.py", "deploy/queue.py", "deploy/audit.py", "deploy/commands.py")
PROGRAMS: Final[Mapping[str, tuple[str, ...]]] = {
    "core_web": ("web/**/*.py", "streams/telemetry/*.py"),
    "core_worker": ("agents/**/*.py", "streams/**/*.py", "tables/**/*.py"),
    "core_operator": _OPERATOR,
}
"""The files of each role's program. What people run by hand is no worker's."""


@dataclass
class _Module:
    """What the top level of a file says: by its name the names that it uses, and the queries."""

    uses: dict[str, set[Name]] = field(default_factory=dict)
    queries: dict[str, set[Name]] = field(default_factory=dict)
    everything: set[Name] = field(default_factory=set)


def statements_of(role: str) -> dict[str, str]:
    """The statements that the role's program can send, by '<subject>.<query>'."""
    todo = {name for file in _files(role) for name in _read(file).everything}
    done: set[Name] = set()
    found: set[Name] = set()
    modules = {file.stem: _read(file) for file in (ROOT / "sql").glob("*.py")}
    while todo:
        module, name = one = todo.pop()
        done.add(one)
        if module in modules:
            found |= modules[module].queries.get(name, set())
            todo |= modules[module].uses.get(name, set()) - done
    return {f"{subject}.{query}": load(subject)[query] for subject, query in sorted(found)}


def _files(role: str) -> Iterator[Path]:
    others = {ROOT / name for name in _OPERATOR if role != "core_operator"}
    for pattern in PROGRAMS[role]:
        yield from (file for file in ROOT.glob(pattern) if file not in others)


@cache
def _read(file: Path) -> _Module:
    tree = ast.parse(file.read_text())
    own = file.stem if file.parent == ROOT / "sql" else ""
    subjects = dict(_loads(tree))
    modules, names = _imports(tree)
    top = {name: node for node in tree.body for name in _defines(node)} if own else {}
    found = _Module()
    for name, node in top.items():
        found.uses[name] = {used for used in _names(node, modules, names, own, top) if used != (own, name)}
        found.queries[name] = set(_asked(node, subjects))
    found.everything = set(_names(tree, modules, names, own, top))
    return found


def _loads(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Names that hold a subject's queries."""
    for node in tree.body:
        value = getattr(node, "value", None)
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "load":
            subject = value.args[0] if value.args else None
            if isinstance(subject, ast.Constant):
                yield from ((name, str(subject.value)) for name in _defines(node))


def _imports(tree: ast.Module) -> tuple[dict[str, str], dict[str, Name]]:
    """Names that stand for modules of `sql`, and for what is in them."""
    modules: dict[str, str] = {}
    names: dict[str, Name] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "sql":
            modules |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sql."):
            module = str(node.module).removeprefix("sql.")
            names |= {alias.asname or alias.name: (module, alias.name) for alias in node.names}
    return modules, names


def _defines(node: ast.stmt) -> Iterable[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []


def _names(
    tree: ast.AST,
    modules: Mapping[str, str],
    names: Mapping[str, Name],
    own: str,
    top: Mapping[str, ast.stmt],
) -> Iterator[Name]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            yield modules[node.value.id], node.attr
        elif isinstance(node, ast.Name) and node.id in names:
            yield names[node.id]
        elif isinstance(node, ast.Name) and node.id in top:
            yield own, node.id


def _asked(tree: ast.AST, subjects: Mapping[str, str]) -> Iterator[Name]:
    """The queries that a piece of code names; all of a subject where it does not name one."""
    whole = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Subscript)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in subjects:
            subject = subjects[node.value.id]
            if isinstance(node.slice, ast.Constant):
                yield subject, str(node.slice.value)
            else:
                yield from ((subject, name) for name in load(subject))
        elif (
            isinstance(node, ast.Name)
            and node.id in subjects
            and id(node) not in whole
            and isinstance(node.ctx, ast.Load)
        ):
            yield from ((subjects[node.id], name) for name in load(subjects[node.id]))

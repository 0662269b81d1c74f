"""The code's own rules, as far as a machine can hold them (style.md: A2, A5, E4, F1, D1, Q6)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
FUNCTION_LINES_MAX = 60
MODULE_LINES_MAX = 500
PACKAGE_MODULES_MAX = (
    14  # "a package of at most a dozen modules", not counting __init__ and one more
)

# Imports go down these layers, or stay inside one part.
LAYERS = {
    "errors": 0,
    "limits": 0,
    "ids": 0,
    "clock": 0,
    "homes": 0,
    "keeping": 0,
    "times": 0,
    "tasks": 0,
    "config": 0,
    "telemetry": 0,
    "wire": 1,
    "core": 2,
    "ports": 3,
    "adapters": 4,
    "engine": 5,
    "service": 6,
    "client": 6,
    "gateway": 7,
    "cli": 7,
    "local": 7,
    "nodes": 8,
    "testing": 8,
    "__main__": 8,
}
VOCABULARY = {part for part, layer in LAYERS.items() if layer == 0}  # may import each other
SIDEWAYS = {("cli", "local")}  # `memsync dev` and the home it finds are the local cluster's

# Layers that would be allowed, but are not: who answers callers from outside holds no data.
FORBIDDEN = {
    "gateway": ("memsync.engine", "memsync.adapters", "memsync.core"),
    "cli": ("memsync.engine", "memsync.adapters", "memsync.core"),
    "client": ("memsync.engine", "memsync.adapters", "memsync.core"),
    "local": ("memsync.engine", "memsync.adapters", "memsync.core", "memsync.service"),
}
ALLOWED_ALL_THE_SAME = ("memsync.adapters.jetstream", "memsync.adapters.http")  # ways to a peer

# What reads a clock, chance, or the world. (A thread-local cache of a stemmer is none of these.)
IMPURE = frozenset(
    {
        "asyncio",
        "httpx",
        "logging",
        "nats",
        "os",
        "random",
        "secrets",
        "socket",
        "sqlite3",
        "structlog",
        "subprocess",
        "time",
    }
)

# Where a broad `except` may stand, by file and function, and why (E4). One that ends in a bare
# `raise` swallows nothing and needs no permission.
BROAD_EXCEPTS = {
    ("memsync/adapters/hot_index/index.py", "search"): "a recall stage: by words alone, tagged",
    ("memsync/adapters/hot_index/search.py", "_expanded"): "a recall stage: without relations",
    ("memsync/adapters/hot_index/search.py", "lead"): "a recall stage: without links",
    ("memsync/cli/main.py", "run"): "the top of the process: one line for a person, no traceback",
    ("memsync/engine/recall/embedding.py", "_ask"): "a recall stage: the next provider, or words",
    ("memsync/engine/recall/embedding.py", "_cached"): "a recall stage: embedded again, tagged",
    ("memsync/engine/recall/embedding.py", "_keep"): "a recall stage: embedded again, tagged",
    ("memsync/engine/recall/loading.py", "_build"): "a job: exact answers go on, tried again",
    ("memsync/engine/recall/loading.py", "_load"): "a recall stage: the scope is loaded next time",
    ("memsync/engine/recall/reasoning.py", "parts_of"): "a recall stage: without parts, tagged",
    (
        "memsync/engine/recall/kept/results.py",
        "keep",
    ): "a recall stage: the answer is there without it",
    (
        "memsync/engine/recall/kept/results.py",
        "look",
    ): "a recall stage: answered without it, tagged",
    ("memsync/engine/recall/pipeline.py", "_confidence"): "a recall stage: raw scores, tagged",
    ("memsync/engine/recall/pipeline.py", "_explained"): "a recall stage: not explained, tagged",
    ("memsync/engine/recall/pipeline.py", "_find"): "a recall stage: no hits, tagged",
    ("memsync/gateway/middleware.py", "__call__"): "the top of a request: it gets an answer",
    ("memsync/service/service.py", "call"): "the top of a request: it gets an answer",
    ("memsync/nodes/gateway.py", "main"): "the top of the process: what ended it is in its log",
    ("memsync/nodes/peer.py", "main"): "the top of the process: what ended it is in its log",
}

ENTRY_POINTS = {
    "memsync.cli.main",
    "memsync.local.up",
    "memsync.local.down",
    "memsync.testing.plugin",
}


@dataclass(frozen=True)
class Module:
    """A source file, parsed."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def part(self) -> str:
        """Which part of the table `LAYERS` it belongs to; "" for the root package."""
        return self.name.partition(".")[2].split(".")[0]

    @property
    def place(self) -> str:
        """Its path, for messages."""
        return str(self.path.relative_to(TOP))


def load_modules() -> dict[str, Module]:
    """Every module of memsync, by dotted name."""
    found: dict[str, Module] = {}
    for path in sorted(TOP.glob("memsync/**/*.py")):
        parts = path.relative_to(TOP).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        found[name] = Module(name, path, text, ast.parse(text, str(path)))
    return found


MODULES = load_modules()
EACH_MODULE = pytest.mark.parametrize("module", MODULES.values(), ids=lambda module: module.name)


def imports(module: Module) -> Iterator[tuple[str, int]]:
    """What a module imports, anywhere in it: (dotted name, line)."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            origin = origin_of(node, module)
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                yield (inner if inner in MODULES else origin), node.lineno


def origin_of(node: ast.ImportFrom, module: Module) -> str:
    """The module that `from ... import` names, made absolute."""
    if not node.level:
        return node.module or ""
    package = module.name if module.path.name == "__init__.py" else module.name.rpartition(".")[0]
    for _ in range(node.level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{node.module}" if node.module else package


def our_imports(module: Module) -> Iterator[tuple[Module, int]]:
    """The modules of this repository that a module imports."""
    for name, line in imports(module):
        if name in MODULES and name != module.name:
            yield MODULES[name], line


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function, nested ones included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def layer_problem(importer: Module, imported: Module) -> str | None:
    """Why this import is not allowed, None if it is."""
    source, target = importer.part, imported.part
    if not target or (source == target != "adapters"):
        return None
    if source == target:
        return adapter_problem(importer, imported)
    if not source:
        is_exported = imported.name in ("memsync.client", "memsync.errors", "memsync.testing")
        return None if is_exported else "the root package exports what programs use, lazily"
    if any(imported.name.startswith(name) for name in FORBIDDEN.get(source, ())) and not any(
        imported.name.startswith(name) for name in ALLOWED_ALL_THE_SAME
    ):
        return f"{source} holds no data and does not reach into {target}"
    if LAYERS[target] < LAYERS[source] or {source, target} <= VOCABULARY:
        return None
    return None if (source, target) in SIDEWAYS else f"{source} is not above {target}"


def adapter_problem(importer: Module, imported: Module) -> str | None:
    """Adapters know nothing of each other; inside one of them imports are free."""
    own, other = (module.name.split(".")[2:3] for module in (importer, imported))
    return None if own == other or not other else "adapters do not import each other"


@EACH_MODULE
def test_imports_go_down_the_layers(module: Module) -> None:
    assert not module.part or module.part in LAYERS, f"{module.part} has no layer: see LAYERS"
    problems = [
        f"{module.place}:{line}: imports {imported.name}: {problem}"
        for imported, line in our_imports(module)
        if (problem := layer_problem(module, imported))
    ]
    assert not problems, "\n".join(problems)


def test_there_is_no_import_cycle() -> None:
    graph = {name: {found.name for found, _ in our_imports(MODULES[name])} for name in MODULES}
    finished: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            raise AssertionError(" -> ".join([*path[path.index(name) :], name]))
        if name not in finished:
            for other in sorted(graph[name]):
                visit(other, [*path, name])
            finished.add(name)

    for name in graph:
        visit(name, [])


@EACH_MODULE
def test_the_core_is_pure(module: Module) -> None:
    if module.part != "core":
        return
    impure = [
        f"{module.place}:{line}: imports {name}"
        for name, line in imports(module)
        if name.partition(".")[0] in IMPURE
    ]
    assert not impure, "\n".join(impure)


@EACH_MODULE
def test_functions_and_modules_are_short(module: Module) -> None:
    lines = len(module.text.splitlines())
    assert lines <= MODULE_LINES_MAX, f"{module.place}: {lines} lines"
    long = [
        f"{module.place}:{function.lineno}: {function.name} has {length} lines"
        for function in functions(module.tree)
        if (length := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert not long, "\n".join(long)


def test_packages_are_small() -> None:
    for package in {module.path.parent for module in MODULES.values()}:
        modules = len(list(package.glob("*.py")))
        assert modules <= PACKAGE_MODULES_MAX, f"{package.relative_to(TOP)}: {modules} modules"


@EACH_MODULE
def test_broad_excepts_are_known_and_have_a_reason(module: Module) -> None:
    unknown = [
        f"{module.place}:{line}: in {function}"
        for function, line in broad_excepts(module.tree)
        if (module.place, function) not in BROAD_EXCEPTS
    ]
    assert not unknown, "catch what you know, or give the reason here:\n" + "\n".join(unknown)


def test_every_allowed_broad_except_still_stands() -> None:
    standing = {
        (module.place, function)
        for module in MODULES.values()
        for function, _ in broad_excepts(module.tree)
    }
    assert set(BROAD_EXCEPTS) <= standing


def broad_excepts(tree: ast.AST, inside: str = "<module>") -> Iterator[tuple[str, int]]:
    """Handlers of `Exception`, `BaseException` or anything: (name of the function, line)."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ExceptHandler) and is_broad(node.type) and not raises(node):
            yield inside, node.lineno
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from broad_excepts(node, node.name if is_function else inside)


def raises(handler: ast.ExceptHandler) -> bool:
    """Whether a handler hands on what it caught."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def is_broad(caught: ast.expr | None) -> bool:
    """Whether an `except` clause catches every error."""
    if isinstance(caught, ast.Tuple):
        return any(map(is_broad, caught.elts))
    return caught is None or (
        isinstance(caught, ast.Name) and caught.id in ("Exception", "BaseException")
    )


def test_nothing_is_left_to_do_later() -> None:
    marks = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
    files = [path for pattern in ("scripts/*", "config/*", ".ci/*") for path in TOP.glob(pattern)]
    left = [
        f"{path.relative_to(TOP)}:{number}"
        for path in [*files, *(module.path for module in MODULES.values())]
        if path.is_file()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if marks.search(line)
    ]
    assert not left, "\n".join(left)


@EACH_MODULE
def test_modules_and_public_names_are_documented(module: Module) -> None:
    assert ast.get_docstring(module.tree) or not module.text, f"{module.place} has no docstring"
    bare = [
        f"{module.place}:{node.lineno}: {node.name} has no docstring"
        for node in module.tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not bare, "\n".join(bare)


def test_there_is_no_dead_module() -> None:
    used = {found.name for module in MODULES.values() for found, _ in our_imports(module)}
    dead = [
        module.place
        for name, module in MODULES.items()
        if name not in used
        and name not in ENTRY_POINTS
        and module.part != "nodes"
        and module.path.name not in ("__init__.py", "__main__.py")
    ]
    assert not dead, "nothing imports:\n" + "\n".join(dead)

"""Who may import whom.

The core decides, the kernel edge does, the root of the package connects the two, and the client
side is standard library only.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "sockbroker"
MODULES = {
    ".".join(("sockbroker", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
THIRD_PARTY = {"yaml", "structlog", "daemon", "lockfile"}
# What asks the system, or changes it: for values in, values out, there is no use for any of it.
THE_WORLD = THIRD_PARTY | {
    "asyncio", "ctypes", "fcntl", "glob", "grp", "io", "logging", "mmap", "multiprocessing", "os",
    "pathlib", "pwd", "random", "resource", "secrets", "select", "selectors", "shutil", "signal",
    "socket", "stat", "subprocess", "sys", "syslog", "tempfile", "threading", "time",
}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """One imported module, and whether importing the module that says so imports it."""

    name: str
    at_once: bool


def imports(module: str) -> Iterator[Import]:
    """All that the text of a module imports, type checking only left out."""
    yield from _imports(module, ast.parse(MODULES[module].read_text()).body, at_once=True)


def _imports(module: str, body: list[ast.stmt], *, at_once: bool) -> Iterator[Import]:
    for node in body:
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from _imports(module, node.orelse, at_once=at_once)
            case ast.Import(names=names):
                for alias in names:
                    yield Import(alias.name, at_once)
            case ast.ImportFrom(module=name, names=names, level=0) if name is not None:
                for alias in names:  # `from package import module` imports the module
                    whole = f"{name}.{alias.name}"
                    yield Import(whole if whole in MODULES else name, at_once)
            case ast.ImportFrom():
                raise AssertionError(f"{module}:{node.lineno}: a relative import")
            case _:
                in_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                inner = [child for child in ast.iter_child_nodes(node) if _has_body(child)]
                yield from _imports(
                    module,
                    [child for child in inner if isinstance(child, ast.stmt)],
                    at_once=at_once and not in_function,
                )
                for child in inner:  # except and case clauses are no statements
                    if not isinstance(child, ast.stmt):
                        yield from _imports(module, getattr(child, "body", []), at_once=at_once)


def _has_body(node: ast.AST) -> bool:
    return isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case)


def reached(start: str) -> set[str]:
    """What importing a module imports, and what that imports, as far as it is ours."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        if module in MODULES:
            waiting += [wanted.name for wanted in imports(module) if wanted.at_once]
    return found


@pytest.mark.parametrize("module", [name for name in MODULES if ".core" in name])
def test_the_core_knows_nothing_of_the_world(module: str) -> None:
    """Values in, values out: nothing of the system, and nothing of ours outside the core.

    The YAML parser is the exception, in functions only: it turns text into events, and whoever does
    not read a policy does not pay for it.
    """
    for wanted in imports(module):
        top = wanted.name.split(".")[0]
        if top == "sockbroker":
            assert wanted.name.startswith("sockbroker.core"), f"{module} imports {wanted.name}"
        elif top == "yaml":
            assert not wanted.at_once, f"{module} imports yaml before it needs it"
        else:
            assert top not in THE_WORLD, f"{module} imports {wanted.name}"


@pytest.mark.parametrize("module", [name for name in MODULES if ".kernel" in name])
def test_the_kernel_edge_is_not_above_anything(module: str) -> None:
    """It does and does not decide: it may use the core's values and its own like."""
    for wanted in imports(module):
        if wanted.name.startswith("sockbroker"):
            assert wanted.name.startswith(("sockbroker.core", "sockbroker.kernel")), (
                f"{module} imports {wanted.name}"
            )
        assert wanted.name.split(".")[0] not in THIRD_PARTY, f"{module} imports {wanted.name}"


def test_nothing_imports_itself_in_a_circle() -> None:
    """Modules can be read in an order in which each builds on what was read before."""
    graph = {
        module: {
            wanted.name for wanted in imports(module) if wanted.at_once and wanted.name in MODULES
        }
        for module in MODULES
    }
    while graph:
        leaves = {module for module, below in graph.items() if not below}
        assert leaves, f"these import each other: {sorted(graph)}"
        graph = {module: below - leaves for module, below in graph.items() if module not in leaves}


@pytest.mark.parametrize("start", ["sockbroker", "sockbroker.client", "sockbroker.ctl"])
def test_the_client_side_is_standard_library_only(start: str) -> None:
    """An application that asks for a directory needs none of the daemon's packages."""
    tops = {module.split(".")[0] for module in reached(start)}
    assert tops - {"sockbroker"} <= set(sys.stdlib_module_names)


def test_asking_for_a_directory_imports_no_package() -> None:
    """Also what is imported only when it is used is standard library."""
    code = (
        "import sys, sockbroker\n"
        "try: sockbroker.request('x', address='unix:/nonexistent/x', timeout=1)\n"
        "except sockbroker.Error: pass\n"
        f"sys.exit(', '.join(set(sys.modules) & {THIRD_PARTY!r}) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_modules_are_short() -> None:
    """A file above 400 lines is about more than one thing."""
    long = {
        name: n for name, path in MODULES.items() if (n := len(path.read_text().splitlines())) > 400
    }
    assert long == {}

"""What users import: few names at the top, listed once, loaded when they are first used; and code of readable size."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import moirelib

PACKAGE = Path(moirelib.__file__).parent
STUBS = sorted(PACKAGE.rglob("__init__.pyi"))
SOURCES = sorted(PACKAGE.rglob("*.py"))


def listed(stub):
    return [
        alias.name for node in ast.parse(stub.read_text("utf-8")).body if hasattr(node, "names") for alias in node.names
    ]


def name_of(file):
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts)


@pytest.mark.parametrize("stub", STUBS, ids=name_of)
def test_every_listed_name_can_be_imported_and_is_documented(stub):
    package = importlib.import_module(".".join(["moirelib", *stub.parent.relative_to(PACKAGE).parts]))
    for name in listed(stub):
        value = getattr(package, name)
        assert not callable(value) or value.__doc__


def public_functions(stub):
    """Name and node of each listed function, and of each public method of a listed class."""
    names, own = listed(stub), [n for n in ast.parse(stub.read_text("utf-8")).body if isinstance(n, ast.ImportFrom)]
    files = [stub.parent / f"{n.module.replace('.', '/')}.py" for n in own if n.module]
    for file in files:
        for node in ast.parse(file.read_text("utf-8")).body if file.is_file() else []:
            if isinstance(node, ast.FunctionDef) and node.name in names:
                yield node.name, node
            elif isinstance(node, ast.ClassDef) and node.name in names:
                methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
                yield from ((f"{node.name}.{m.name}", m) for m in methods if m.name == "__init__" or m.name[0] != "_")


def unannotated(function):
    a = function.args
    arguments = [x for x in [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg] if x]
    missing = [x.arg for x in arguments if x.annotation is None and x.arg not in ("self", "cls")]
    return missing + ["return"] * (function.returns is None)


@pytest.mark.parametrize("stub", STUBS, ids=name_of)
def test_every_public_function_says_what_it_takes_and_gives(stub):
    assert {name: unannotated(node) for name, node in public_functions(stub) if unannotated(node)} == {}


def test_functions_and_methods_of_every_package_are_looked_at():
    looked_at = {name for stub in STUBS for name, _ in public_functions(stub)}
    assert {"decompose", "train", "random_scene", "find_lattice", "Decomposition.save", "Mesh.__init__"} <= looked_at


def test_the_top_has_few_names_with_a_line_each():
    lines = (PACKAGE / "__init__.pyi").read_text("utf-8").splitlines()
    named = [line for line in lines if " as " in line]
    assert len(named) == len(moirelib.__all__) <= 30
    assert all("  # " in line for line in named)


def test_importing_moirelib_loads_nothing_slow():
    slow = {"torch", "abtem", "pandas", "scipy", "matplotlib"}
    code = f"import sys, moirelib; print(sorted({slow!r} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_decompose_is_the_function_whatever_was_imported_before():
    importlib.import_module("moirelib.decomposition.pipeline")
    assert callable(moirelib.decompose)


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_modules_and_signatures_are_short_enough_to_read(source):
    text = source.read_text("utf-8")
    assert len(text.splitlines()) <= 600
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            a = node.args
            names = [x.arg for x in [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg] if x]
            assert len([name for name in names if name not in ("self", "cls")]) <= 8, node.name

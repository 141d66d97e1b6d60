"""What holds for every module: docstrings, and things that must not appear."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = [
    ROOT / "clouddeploy",
    ROOT / "providers/clouddeploy_providers",
    ROOT / "provision/clouddeploy_provision",
    ROOT / "runtime/clouddeploy_runtime",
    ROOT / "moto_fixtures/clouddeploy_rehearsal",
]
MODULES = sorted(path for package in PACKAGES for path in package.rglob("*.py") if "_pb2" not in path.name)
NEVER = re.compile(
    r'StrictHostKeyChecking(?!": "yes")|AutoAddPolicy|WarningPolicy|shell=True|\bimport pickle|\bos\.system\('
)
MAX_LINES = 450


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module(path):
    text = path.read_text(encoding="utf-8")
    assert not NEVER.search(text)
    assert text.count("\n") <= MAX_LINES
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says what it is for"
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
    if path.parent.name != "cli" and path.name not in {"cli.py", "__main__.py"}:
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        assert not [call.lineno for call in calls if call.func.id == "print"], "output for people goes through cli"


def test_no_bare_except():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{name(path)}:{node.lineno}"

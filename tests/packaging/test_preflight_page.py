"""docs/preflight.md says what the code says: codes, checks, limits."""

import ast
import re
from pathlib import Path

from clouddeploy_runtime.client import diagnosis
from clouddeploy_runtime.preflight import codes, network

from tests.packaging.pages import page, section, tables

PREFLIGHT = Path(codes.__file__).parent
MADE_UP = re.compile(r"(?:KIT|CERT|ROOT|SERVER)_(?:EXPIRED|NOT_YET_VALID|EXPIRES_SOON|EXPIRES_THIS_WEEK)")
RAISED = {"KIT_TAMPERED", "KIT_UNUSABLE"}


def constants(*files: Path) -> set[str]:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_code_stands_in_the_page_with_its_meaning_and_remedy():
    (table,) = tables(section("preflight.md", "Codes"))
    expected = [[f"`{code}`", one.level.value, one.text, one.remedy] for code, one in codes.CODES.items()]
    assert table == expected


def test_every_code_is_one_that_is_reported():
    files = [path for path in PREFLIGHT.glob("*.py") if path.name != "codes.py"]
    said = constants(*files, Path(diagnosis.__file__))
    assert {code for code in codes.CODES if code not in said and not MADE_UP.fullmatch(code)} <= RAISED


def test_every_check_stands_in_the_page():
    files = [path for path in PREFLIGHT.glob("*.py") if path.name != "text.py"]
    checks = {text for text in constants(*files) if re.fullmatch(r"Check [A-Za-z]+(?: [A-Za-z]+){0,3}", text)}
    assert len(checks) > 25
    named = ", ".join(row[0] for row in tables(section("preflight.md", "What is checked"))[0]).split(", ")
    assert sorted(named) == sorted(checks - {"Check package"})


def test_the_limits_of_the_page_are_those_of_the_code():
    text = " ".join(page("preflight.md").split())
    assert f"a warning from {network.SKEW_WARN_S:g} s, a failure from {network.SKEW_FAIL_S:g} s" in text
    assert f"ends after {network.STEP_S:g} s" in text

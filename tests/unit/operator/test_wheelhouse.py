"""What goes into a site's Python environment."""

import pytest
from clouddeploy_runtime.errors import ExitCode

from clouddeploy.errors import ConfigError
from clouddeploy.wheelhouse import asked_for


@pytest.fixture
def kit(tmp_path):
    (tmp_path / "startup").mkdir()

    def kit(text):
        (tmp_path / "startup/requirements.txt").write_text(text)
        return tmp_path

    return kit


def test_a_kit_without_requirements_asks_for_nothing(tmp_path):
    assert asked_for(tmp_path) == ()


def test_requirements_are_read_without_comments(kit):
    text = "# for the jobs\nscikit-learn==1.5.2  # a forest\n\nnumpy>=2 ; python_version > '3.11'\n"
    assert asked_for(kit(text)) == ("scikit-learn==1.5.2", "numpy>=2 ; python_version > '3.11'")


@pytest.mark.parametrize("line", ["-r more.txt", "--index-url https://x.example", "a==1 --hash=sha256:00", "a==1 \\"])
def test_options_of_pip_are_refused_since_they_say_where_things_come_from(kit, line):
    with pytest.raises(ConfigError) as refused:
        asked_for(kit(f"numpy\n{line}\n"))
    assert refused.value.exit_code == ExitCode.BAD_INPUT
    assert line in refused.value.why


@pytest.mark.parametrize(
    "line",
    [
        "evil @ file:///tmp/evil.tar.gz",
        "evil @ https://x.example/evil.whl",
        "git+https://x.example/evil",
        "./evil",
        "evil.whl",
    ],
)
def test_what_would_be_built_here_is_refused_since_that_runs_it(kit, line):
    with pytest.raises(ConfigError) as refused:
        asked_for(kit(f"{line}\n"))
    assert line in refused.value.why

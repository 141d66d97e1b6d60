"""The Open Provision API: order, what the context offers, and that nothing is left of a run that failed."""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clouddeploy_provision import project as project_file
from clouddeploy_provision.builders.catalogue import Custom, Step
from clouddeploy_provision.errors import BuilderFailed
from clouddeploy_provision.provisioner import Options, preview, provision
from clouddeploy_runtime import kit
from clouddeploy_runtime.errors import ExitCode

if TYPE_CHECKING:
    from clouddeploy_provision.project import Project
    from clouddeploy_provision.provisioner import ProvisionReport

HEAD = "from pathlib import Path\nimport os, sys\nfrom clouddeploy_provision.spec import Builder, Packager\n\n"
PARTS = [("__init__", "be made"), ("initialize", "initialize"), ("build", "build"), ("finalize", "finalize")]


class Bench:
    """Runs builders that a test writes down as source text."""

    def __init__(self, dummy: Project, folder: Path) -> None:
        self._dummy = dummy
        self.folder = folder
        self.project_folder = folder / "ws" / dummy.name
        self._modules = 0

    def module(self, source: str) -> str:
        """Write a module and return its name, another one each time, since Python keeps what it imported."""
        self._modules += 1
        name = f"{self.folder.name.replace('-', '_')}_{self._modules}"
        (self.folder / f"{name}.py").write_text(HEAD + source)
        return name

    def run(self, *builders: str, packager: str = "", args: dict | None = None) -> ProvisionReport:
        """Provision with builders after the bundled ones."""
        steps = tuple(Step(path, args or {}) for path in builders)
        found = dataclasses.replace(
            self._dummy,
            builders=(*self._dummy.builders, *steps),
            packager=Step(packager) if packager else None,
        )
        options = Options(custom=Custom(self.folder))
        return provision(found, self.folder / "ws", passphrase=b"x", options=options)

    def left(self) -> set[str]:
        return {path.name for path in self.project_folder.iterdir()}


@pytest.fixture
def bench(dummy, tmp_path) -> Bench:
    return Bench(dummy, tmp_path)


def test_builders_run_in_order_and_finish_in_reverse(bench):
    name = bench.module("""
class Noting(Builder):
    def initialize(self, project, ctx): ctx.setdefault("calls", []).append(f"{type(self).__name__}.initialize")
    def build(self, project, ctx): ctx["calls"].append(f"{type(self).__name__}.build")
    def finalize(self, project, ctx):
        ctx["calls"].append(f"{type(self).__name__}.finalize")
        ctx.add_result_file("calls.txt", " ".join(ctx["calls"]).encode())
class One(Noting): pass
class Two(Noting): pass
class Last(Packager):
    def package(self, project, ctx):
        signed = (ctx.get_result_location() / "site-1" / "startup" / "manifest.json.sig").exists()
        (ctx.get_result_location() / "packaged.txt").write_text(f"{signed} {ctx['calls'][-1]}")
""")
    result = bench.run(f"{name}.One", f"{name}.Two", packager=f"{name}.Last").result
    assert (result / "calls.txt").read_text().split() == [
        "One.initialize",
        "Two.initialize",
        "One.build",
        "Two.build",
        "Two.finalize",
        "One.finalize",
    ]
    assert (result / "packaged.txt").read_text() == "True One.finalize"


def test_what_the_context_offers(bench):
    (bench.folder / "texts.yml").write_text("hello: 'Hello {~~who~~}, '\nbye: bye {~~who~~}\n")
    name = bench.module("""
class All(Builder):
    def build(self, project, ctx):
        site = project.participant("site-1")
        kit = ctx.get_wip_dir() / "site-1"
        assert (ctx.get_ws_dir(site), ctx.get_kit_dir(site)) == (kit, kit / "startup")
        assert (ctx.get_local_dir(site), ctx.get_transfer_dir(site)) == (kit / "local", kit / "transfer")
        assert (ctx["wip_dir"], ctx["state_dir"]) == (ctx.get_wip_dir(), ctx.get_state_dir())
        assert ctx.get_state_dir() == ctx.get_workspace() / "state" and ctx["workspace"] == ctx.get_workspace()
        assert ctx.get_workspace().name == project.name == ctx.get_project().name
        assert (ctx["server_name"], ctx["fed_learn_port"], ctx["admin_port"]) == ("server1", 8002, 8002)
        assert ctx.get_provision_mode() == ctx.provision_mode == "normal"
        assert ctx.get_result_location() is None and "nothing" not in ctx and ctx.get("nothing") is None
        assert (ctx.get_kit_dir(site) / "client.crt").exists()
        ctx.load_templates("texts.yml")
        assert ctx.get_template_section("bye") == "bye {~~who~~}"
        ctx.build_from_template(ctx.get_kit_dir(site), ["hello", "bye"], "hi.txt", {"who": "you"})
        ctx.build_from_template(str(ctx.get_local_dir(site)), "bye", "run.sh", {"who": 1}, exe=True)
        ctx.build_from_template(ctx.get_local_dir(site), "bye", "up", content_modify_cb=lambda text, n: text * n, n=2)
        for say in (ctx.debug, ctx.info, ctx.warning):
            say(f"{say.__name__} text")
        assert (ctx.warnings, ctx.errors) == (["warning text"], [])
        assert ctx.files(site)["startup/hi.txt"].content == b"Hello you, bye you"
        ctx.add_file(site, "startup/hi.txt", b"hi", 0o600)
        assert (ctx.get_kit_dir(site) / "hi.txt").read_text() == "hi"
        (ctx.get_wip_dir() / "beside.txt").write_text("beside")
    def finalize(self, project, ctx):
        assert ctx.carried(project.server, "startup/server.crt") is None
class Check(Packager):
    def package(self, project, ctx):
        assert ctx["current_prod_dir"] == ctx.get_result_location() == ctx.get_wip_dir()
        assert ctx.get_kit_dir(project.server) == ctx.get_result_location() / "server1" / "startup"
""")
    report = bench.run(f"{name}.All", packager=f"{name}.Check")
    site = report.kits["site-1"]
    modes = {
        path: stat.S_IMODE((site / path).stat().st_mode) for path in ("startup/hi.txt", "local/run.sh", "local/up")
    }
    assert modes == {"startup/hi.txt": 0o600, "local/run.sh": 0o755, "local/up": 0o644}
    assert (site / "local/run.sh").read_text() == "bye 1"
    assert (site / "local/up").read_text() == "bye {~~who~~}" * 2
    assert (report.result / "beside.txt").read_text() == "beside"
    assert "warning text" in report.warnings
    assert kit.verify(site).participant == "site-1"


@pytest.mark.parametrize(
    "failure", ["raise RuntimeError('broken')", "1 / 0", "sys.exit(7)", "raise OSError(28, 'full')"]
)
@pytest.mark.parametrize(("method", "said"), PARTS)
def test_nothing_is_left_of_a_run_whose_builder_fails(bench, method, said, failure):
    name = bench.module(f"""
class Early(Builder):
    def initialize(self, project, ctx): (ctx.get_wip_dir() / "early.txt").write_text("x")
class Bad(Builder):
    def {method}(self, *_): {failure}
""")
    with pytest.raises(BuilderFailed) as caught:
        bench.run(f"{name}.Early", f"{name}.Bad")
    assert caught.value.exit_code is ExitCode.FAILED
    assert f"{name}.Bad" in caught.value.what
    assert said in caught.value.what
    assert caught.value.why
    assert bench.left() == {"state"}
    assert bench.run(f"{name}.Early").result.name == "prod_00"


def test_nothing_is_left_of_a_run_whose_packager_fails_and_earlier_results_stand(bench):
    name = bench.module("class Bad(Packager):\n    def package(self, project, ctx): raise ValueError('no room')\n")
    before = bench.run()
    with pytest.raises(BuilderFailed, match=f"the builder {name}.Bad failed in package: ValueError: no room"):
        bench.run(packager=f"{name}.Bad")
    assert bench.left() == {"state", "prod_00"}
    assert kit.verify(before.kits["site-1"]).participant == "site-1"
    assert set(bench.run().kept) == set(before.kits)


def test_a_preview_leaves_the_unfinished_kits_of_another_run_alone(bench, dummy):
    bench.run()
    (bench.project_folder / "wip" / "staging").mkdir(parents=True)
    assert {one.outcome for one in preview(dummy, bench.folder / "ws")} == {"kept"}
    assert (bench.project_folder / "wip" / "staging").exists()


def test_errors_that_builders_report_fail_the_run_after_all_of_them(bench):
    name = bench.module("""
class One(Builder):
    def build(self, project, ctx): ctx.error("no licence")
class Two(Builder):
    def finalize(self, project, ctx): ctx.error("no key"); ctx.error("no map")
""")
    with pytest.raises(BuilderFailed) as caught:
        bench.run(f"{name}.One", f"{name}.Two")
    assert caught.value.why == f"{name}.One: no licence; {name}.Two: no key; {name}.Two: no map"
    assert bench.left() == {"state"}


def test_a_packager_that_reports_an_error(bench):
    name = bench.module("class Bad(Packager):\n    def package(self, project, ctx): ctx.error('no room')\n")
    with pytest.raises(BuilderFailed, match="no room"):
        bench.run(packager=f"{name}.Bad")
    assert bench.left() == {"state"}


def test_files_of_every_kit_may_be_changed_and_are_signed_as_they_are_then(bench):
    name = bench.module("""
class Changing(Builder):
    def finalize(self, project, ctx):
        for one in project.participants:
            (ctx.get_kit_dir(one) / "deep" / "er").mkdir(parents=True)
            (ctx.get_kit_dir(one) / "deep" / "er" / "x").write_bytes(b"x")
        site = project.participant("site-2")
        (ctx.get_kit_dir(site) / "start.sh").write_text("#!/bin/sh\\n")
        (ctx.get_local_dir(site) / "privacy.json.sample").unlink()
        (ctx.get_ws_dir(site) / "notes.txt").write_text("n")
        (ctx.get_transfer_dir(site) / "t.txt").write_text("t")
""")
    report = bench.run(f"{name}.Changing")
    for participant, root in report.kits.items():
        assert kit.verify(root).participant == participant
        assert (root / "startup/deep/er/x").exists()
    site = report.kits["site-2"]
    assert (site / "startup/start.sh").read_text() == "#!/bin/sh\n"
    assert not (site / "local/privacy.json.sample").exists()
    assert [(site / path).read_text() for path in ("notes.txt", "transfer/t.txt")] == ["n", "t"]
    assert set(bench.run(f"{name}.Changing").kept) == set(report.kits)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("(ctx.get_kit_dir(site) / 'client.key').unlink()", "a builder removed startup/client.key"),
        (
            "import shutil; shutil.rmtree(ctx.get_ws_dir(site))",
            "a builder removed startup/client.crt, startup/client.key",
        ),
        ("del ctx.kits['site-1']['startup/fed_client.json']", "a builder removed startup/fed_client.json"),
        ("(ctx.get_kit_dir(site) / 'link').symlink_to('/etc/hostname')", "it is neither a file nor a folder"),
        ("os.mkfifo(ctx.get_wip_dir() / 'pipe')", "it is neither a file nor a folder"),
        ("ctx.add_file(site, '../server1/startup/x', b'')", "it is not a path below a kit's folder"),
        ("ctx.add_file(site, '/etc/x', b'')", "it is not a path below a kit's folder"),
        ("ctx.add_file(site, 'a//b', b'')", "it is not a path below a kit's folder"),
        ("ctx.add_result_file('../x', b'')", "it is not a path below a kit's folder"),
        ("ctx.add_result_file('site-1/startup/x', b'')", "it is in one"),
        ("ctx.load_templates('none.yml')", "cannot be read"),
        ("ctx.load_templates('twice.yml')", "stands in line 1 already"),
        ("ctx.load_templates('list.yml')", "must be a mapping of texts"),
        ("ctx.build_from_template(ctx.get_kit_dir(site), 'none', 'x')", "there is no template section none"),
        ("ctx['nothing']", "KeyError: 'nothing'"),
    ],
)
def test_what_a_builder_cannot_do(bench, line, why):
    (bench.folder / "twice.yml").write_text("a: x\na: y\n")
    (bench.folder / "list.yml").write_text("- x\n")
    name = bench.module(
        "class Bad(Builder):\n    def build(self, project, ctx):\n"
        f"        site = project.participant('site-1')\n        {line}\n"
    )
    with pytest.raises(BuilderFailed) as caught:
        bench.run(f"{name}.Bad")
    assert why in str(caught.value)
    assert caught.value.exit_code is ExitCode.FAILED
    assert bench.left() == {"state"}


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("no_such_module.Builder", "No module named 'no_such_module'"),
        ("MODULE.Missing", "has no attribute 'Missing'"),
        ("MODULE.value", "it is not a class"),
        ("MODULE.Needy", "missing 1 required positional argument: 'text'"),
    ],
)
def test_a_builder_that_cannot_be_loaded(bench, path, why):
    name = bench.module("value = 3\nclass Needy(Builder):\n    def __init__(self, text): pass\n")
    with pytest.raises(BuilderFailed) as caught:
        bench.run(path.replace("MODULE", name))
    assert why in str(caught.value)
    assert bench.left() == {"state"}


def test_what_is_not_offered_of_the_reference_is_said_when_a_builder_wants_it(bench):
    name = bench.module("from nvflare.lighter.utils import sign_all\n")
    with pytest.raises(BuilderFailed) as caught:
        bench.run(f"{name}.Any")
    assert "nvflare.lighter.utils" in caught.value.why
    assert "install nvflare" in caught.value.hint


def test_a_builder_of_an_older_reference_asks_itself_for_folders(bench):
    name = bench.module("""
from nvflare.lighter.spec import Builder, Participant, Project, ProvisionContext
class Older(Builder):
    def build(self, project: Project, ctx: dict):
        server = project.get_participants_by_type("server")
        assert server is project.get_server() and server.get_default_host() == "localhost"
        assert project.get_participants_by_type("relay") is None
        assert project.get_participants_by_type("relay", first_only=False) == project.get_relays() == []
        assert (server.type, server.subject, server.get_prop("fed_learn_port")) == ("server", "server1", 8002)
        assert server.get_prop("nothing", 5) == 5 and isinstance(server, Participant)
        assert len(project.get_admins()) == 2 and isinstance(ctx, ProvisionContext)
        with open(os.path.join(self.get_kit_dir(server, ctx), "older.txt"), "wt") as file:
            file.write(str(os.path.join(self.get_wip_dir(ctx), server.name) == str(self.get_ws_dir(server, ctx))))
""")
    report = bench.run(f"{name}.Older")
    assert (report.kits["server1"] / "startup/older.txt").read_text() == "True"


def test_the_names_of_the_reference_are_gone_afterwards(bench):
    name = bench.module("from nvflare.lighter.spec import Builder\nclass Any(Builder): pass\n")
    bench.run(f"{name}.Any")
    with pytest.raises(ModuleNotFoundError):
        import nvflare  # noqa: F401, PLC0415 - whether it can be imported is the question


def test_a_module_beside_the_builder_can_be_imported_while_it_builds(bench):
    beside = bench.module("TEXT = 'from beside'\n")
    name = bench.module(f"""
class Late(Builder):
    def build(self, project, ctx):
        from {beside} import TEXT
        ctx.add_file(project.server, "local/late.txt", TEXT.encode())
""")
    assert (bench.run(f"{name}.Late").kits["server1"] / "local/late.txt").read_text() == "from beside"


def test_a_file_named_like_a_library_does_not_stand_for_it(bench):
    (bench.folder / "colorsys.py").write_text("raise RuntimeError('the wrong one')\n")
    name = bench.module("import colorsys\nclass Any(Builder): pass\n")
    assert bench.run(f"{name}.Any").result.name == "prod_00"


def test_a_builder_that_is_no_subclass_is_called_for_what_it_has(bench):
    name = bench.module("class Any:\n    def build(self, project, ctx): ctx.add_result_file('x', b'')\n")
    assert (bench.run(f"{name}.Any").result / "x").exists()


@pytest.mark.parametrize("builder", ["workspace.WorkspaceBuilder", "cert.CertBuilder", "signature.SignatureBuilder"])
def test_what_every_kit_has_anyhow_need_not_be_listed(tmp_path, builder):
    file = tmp_path / "project.yml"
    file.write_text(
        "api_version: 3\nname: p\nparticipants: [{name: s, type: server, org: o}]\n"
        f"builders: [{{path: nvflare.lighter.impl.{builder}}}]\n"
    )
    report = provision(project_file.load(file), tmp_path, passphrase=b"x")
    assert kit.verify(report.kits["s"]).participant == "s"
    assert (Path(report.kits["s"]) / "startup/start.sh").exists()

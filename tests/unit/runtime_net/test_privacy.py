"""A site's privacy policy: which scope a job gets, and that nothing runs past a policy that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import clouddeploy_provision
import pytest
from clouddeploy_runtime import audit, privacy, tls
from clouddeploy_runtime.client.admission import Admission, Admitted
from clouddeploy_runtime.privacy import ScopeRefused
from clouddeploy_runtime.server.participants import Participants

PERCENTILE = "nvflare.app_common.filters.percentile_privacy.PercentilePrivacy"
PRIVATE = {
    "name": "private",
    "properties": {"train_dataset": "/data/private"},
    "task_result_filters": [{"path": PERCENTILE, "args": {"gamma": 1}}, {"name": "SVTPrivacy"}],
    "task_data_filters": [{"class_path": "own.Strong", "direction": "IN"}],
}
DOCUMENT = {"scopes": [{"name": "public"}, PRIVATE], "default_scope": "public"}


@pytest.fixture
def local(tmp_path):
    (tmp_path / "local").mkdir()
    return tmp_path / "local"


def written(local, document=DOCUMENT):
    (local / "privacy.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return local


def changed(**scope):
    return {"scopes": [{"name": "a", **scope}]}


def test_without_a_file_there_are_no_scopes(local):
    assert privacy.load(local) is None


def test_a_job_gets_the_scope_that_it_names_else_the_sites_default(local):
    policy = privacy.load(written(local))
    assert [policy.choose(wanted).name for wanted in ("private", "public", "")] == ["private", "public", "public"]


def test_a_scope_that_the_site_does_not_have_is_refused_with_its_name_and_the_file(local):
    with pytest.raises(ScopeRefused) as caught:
        privacy.load(written(local)).choose("secret")
    assert str(caught.value).startswith("privacy scope 'secret' is not allowed: ")
    assert "local/privacy.json has private, public" in str(caught.value)


def test_a_job_without_a_scope_is_refused_where_there_is_no_default(local):
    with pytest.raises(
        ScopeRefused, match=r"without a privacy scope is not allowed.*local/privacy\.json has no default_scope"
    ):
        privacy.load(written(local, changed())).choose("")


def test_filters_keep_their_order_and_a_bare_name_is_one_of_ours(local):
    scope = privacy.load(written(local)).choose("private")
    assert [(one.path, one.args) for one in scope.result] == [
        (PERCENTILE, {"gamma": 1}),
        ("clouddeploy_runtime.job.dp.SVTPrivacy", {}),
    ]
    assert [one.path for one in scope.data] == ["own.Strong"]
    assert scope.data[0].where == 'local/privacy.json: scope "private": task_data_filters[0]'


def test_a_jobs_process_learns_of_its_scope_by_a_variable(local):
    scope = privacy.load(written(local)).choose("private")
    assert privacy.given({"HOME": "/", **scope.environment()}) == scope
    assert privacy.given({"HOME": "/"}) is None


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ("{", "Expecting property name"),
        ("[]", "it is not an object"),
        ({}, '"scopes" must be a list of at least one'),
        ({"scopes": []}, '"scopes" must be a list of at least one'),
        ({"scopes": {"name": "a"}}, '"scopes" must be a list of at least one'),
        ({**DOCUMENT, "default_scope": "secret"}, "\"default_scope\" is 'secret', and there is no such scope"),
        ({**DOCUMENT, "default_scope": ["public"]}, "there is no such scope"),
        ({**DOCUMENT, "default": "public"}, '"default" is not known'),
        ({"scopes": ["a"]}, r'scopes\[0\] must be an object with a "name"'),
        ({"scopes": [{"name": ""}]}, r'scopes\[0\] must be an object with a "name"'),
        ({"scopes": [{"name": "a"}, {"name": "a"}]}, 'there are two scopes "a"'),
        (changed(task_result_filter=[]), 'scope "a": "task_result_filter" is not known'),
        (changed(properties=[1]), 'scope "a": "properties" must be an object'),
        (changed(properties={"a": "b" * 70_000}), 'scope "a": it is larger than 65536 bytes'),
        (changed(task_data_filters={"path": PERCENTILE}), 'scope "a": "task_data_filters" must be a list'),
        (changed(task_result_filters=["a"]), r"task_result_filters\[0\] must be an object"),
        (changed(task_result_filters=[{"args": {}}]), "must name its class by"),
        (changed(task_result_filters=[{"name": "Unheard"}]), "must name its class by"),
        (changed(task_result_filters=[{"path": "Filter"}]), "must name its class by"),
        (changed(task_result_filters=[{"path": PERCENTILE, "args": [1]}]), '"args" must be an object'),
        (changed(task_result_filters=[{"path": PERCENTILE, "arg": {}}]), '"arg" is not known'),
        (changed(task_result_filters=[{"path": PERCENTILE, "direction": "in"}]), "only for 'out'"),
        (changed(task_data_filters=[{"path": PERCENTILE, "direction": "out"}]), "only for 'in'"),
    ],
)
def test_a_policy_that_cannot_be_used_lets_no_job_run_and_says_why(local, document, why):
    with pytest.raises(ScopeRefused, match=why) as caught:
        privacy.load(written(local, document))
    assert "local/privacy.json" in str(caught.value)


def test_a_policy_that_cannot_be_read_lets_no_job_run(local):
    (local / "privacy.json").mkdir()
    with pytest.raises(ScopeRefused):
        privacy.load(local)
    (local / "privacy.json").rmdir()
    (local / "privacy.json").symlink_to(local / "gone")
    with pytest.raises(ScopeRefused):
        privacy.load(local)


def test_the_sample_of_the_kits_is_a_policy(local):
    sample = Path(clouddeploy_provision.__file__).parent / "kit_files" / "privacy.json.sample"
    assert privacy.load(written(local, sample.read_text())).choose("").name == "public"


class Site:
    """A site's judgement, and a job without a signature that has come there."""

    def __init__(self, local, scope=None):
        root = local.parent
        self.audit = root / "audit.jsonl"
        kit = SimpleNamespace(local=local, name="site-1", host="127.0.0.1", root_cert_file=root / "rootCA.pem")
        self.admission = Admission.__new__(Admission)
        self.admission._kit, self.admission._audit = kit, audit.AuditLog(self.audit)
        self.app = root / "job" / "app"
        (self.app / "config").mkdir(parents=True)
        (self.app / "config" / "config_fed_client.json").write_text("{}")
        (self.app / "config" / "config_fed_server.json").write_text("{}")
        meta = {"name": "a", "deploy_map": {"app": ["@ALL"]}, **({} if scope is None else {"scope": scope})}
        (root / "job" / "meta.json").write_text(json.dumps(meta))

    def scope(self):
        return self.admission.scope(Admitted("j", tls.Peer("ann", "org", "lead"), None), self.app)

    def recorded(self):
        entries = [json.loads(line) for line in self.audit.read_text().splitlines()] if self.audit.exists() else []
        return [(one["user"], one["action"], one["result"], one["detail"].partition(":")[0]) for one in entries]


def test_the_audit_log_says_in_which_scope_a_job_runs(local):
    site = Site(written(local), "private")
    assert site.scope().name == "private"
    assert site.recorded() == [("ann", "privacy_scope j", "allowed", "scope private")]


def test_the_audit_log_says_why_a_job_has_no_scope(local):
    site = Site(written(local), "secret")
    with pytest.raises(ScopeRefused):
        site.scope()
    assert site.recorded() == [("ann", "privacy_scope j", "refused", "privacy scope 'secret' is not allowed")]


def test_a_site_without_a_policy_has_nothing_to_record(local):
    site = Site(local, "private")
    assert site.scope() is None
    assert site.recorded() == []


def test_what_a_site_says_of_a_jobs_start_names_its_scope(local):
    sites = Participants(("a", "b", "c"), min_clients=1, mandatory=frozenset(), is_deploying=True)
    sites.deployed("a", "", scope="public")
    sites.deployed("b", "")
    sites.deployed("c", "c: no")
    assert sites.detail == {"a": "privacy scope: public", "b": "", "c": "c: no"}


def test_a_scope_that_is_told_after_the_first_answer_is_noted():
    sites = Participants(("a",), min_clients=1, mandatory=frozenset(), is_deploying=True)
    assert sites.deployed("a", "")
    assert sites.deployed("a", "", scope="public")
    assert not sites.deployed("a", "", scope="public")
    assert not sites.deployed("a", "")
    assert sites.detail == {"a": "privacy scope: public"}

"""A scope's filters stand before a job's, and nothing of the job gets into their place."""

from __future__ import annotations

import sys

import pytest
from clouddeploy_runtime.errors import ClouddeployError
from clouddeploy_runtime.job import scoping
from clouddeploy_runtime.job.client_api import Wishes
from clouddeploy_runtime.job.filters import BadFilter, Chain, ExcludeVars, Filters
from clouddeploy_runtime.job.percentile import PercentilePrivacy
from clouddeploy_runtime.jobs.known import ComponentRefused
from clouddeploy_runtime.privacy import Entry, Scope

OWN = """
from clouddeploy_runtime.job.filters import Filter


class Strong(Filter):
    pass
"""
WISHES = Wishes(filters=Filters(result=[Chain(("train",), (ExcludeVars("head"),))]))


@pytest.fixture
def app(tmp_path, monkeypatch):
    """Return an app's folder; its code, and the site's in `site`, can be imported."""
    for folder in (tmp_path / "site", tmp_path / "app" / "custom"):
        folder.mkdir(parents=True)
        monkeypatch.syspath_prepend(str(folder))
    yield tmp_path / "app"
    sys.modules.pop("strong_filters", None)


def scope(path, **args):
    return Scope("private", result=(Entry(path, args, "privacy.json: here"),))


def test_without_a_scope_a_job_has_its_own_filters():
    assert scoping.under(None, WISHES, app=None) is WISHES


def test_a_scopes_filters_stand_first_and_see_every_task(app):
    found = scoping.under(scope("clouddeploy_runtime.job.percentile.PercentilePrivacy", gamma=1), WISHES, app=app)
    assert [(chain.tasks, [type(one) for one in chain.filters]) for chain in found.filters.result] == [
        (("*",), [PercentilePrivacy]),
        (("train",), [ExcludeVars]),
    ]


def test_a_scope_may_name_code_of_the_site(app):
    (app.parent / "site" / "strong_filters.py").write_text(OWN)
    found = scoping.under(scope("strong_filters.Strong"), WISHES, app=app)
    assert type(found.filters.result[0].filters[0]).__name__ == "Strong"


def test_code_of_the_job_does_not_stand_in_for_that_of_the_site(app):
    (app.parent / "site" / "strong_filters.py").write_text(OWN)
    (app / "custom" / "strong_filters.py").write_text("raise SystemExit")
    with pytest.raises(BadFilter, match=r"privacy\.json: here cannot be used: the job brings a module"):
        scoping.under(scope("strong_filters.Strong"), WISHES, app=app)


@pytest.mark.parametrize(
    ("path", "args", "kind"),
    [
        ("nowhere.Strong", {}, ComponentRefused),
        ("json.JSONDecoder", {}, ComponentRefused),
        ("clouddeploy_runtime.job.percentile.PercentilePrivacy", {"gamma": 0}, BadFilter),
        ("clouddeploy_runtime.job.percentile.PercentilePrivacy", {"limit": 1}, ClouddeployError),
    ],
)
def test_a_filter_of_the_scope_that_cannot_be_made_keeps_the_job_from_running(app, path, args, kind):
    with pytest.raises(kind):
        scoping.under(scope(path, **args), WISHES, app=app)

"""Which sites a job can count on."""

from __future__ import annotations

from clouddeploy_runtime.server.participants import RESTARTS, Participants

SITES = ("site-1", "site-2", "site-3")


def those(*, min_clients=2, mandatory=(), is_deploying=True):
    return Participants(SITES, min_clients=min_clients, mandatory=frozenset(mandatory), is_deploying=is_deploying)


def test_a_job_runs_as_soon_as_enough_sites_have_started_it():
    sites = those()
    sites.deployed("site-1", "")
    assert not sites.review()
    sites.deployed("site-2", "")
    assert sites.review()
    assert not sites.review()  # it is said once
    assert sites.detail == {"site-1": "", "site-2": ""}


def test_a_job_waits_for_a_site_that_must_take_part():
    sites = those(mandatory={"site-3"})
    sites.deployed("site-1", "")
    sites.deployed("site-2", "")
    assert not sites.review()
    sites.deployed("site-3", "")
    assert sites.review()


def test_a_job_cannot_run_when_a_site_that_must_take_part_refuses_it():
    sites = those(mandatory={"site-3"})
    sites.deployed("site-3", "site-3: its policy refuses it")
    assert not sites.review()
    assert sites.problem == "site-3 must take part: site-3: its policy refuses it"
    assert sites.detail == {"site-3": "site-3: its policy refuses it"}


def test_a_job_cannot_run_when_too_few_sites_can_start_it():
    sites = those()
    sites.deployed("site-1", "site-1: no")
    sites.review()
    assert sites.problem == ""
    for site, reason in sites.silent().items():
        sites.deployed(site, reason)
    sites.review()
    assert sites.problem.startswith("2 sites must take part: site-1: no; site-2: no answer to the job's start within")


def test_a_site_that_refused_takes_no_part_when_it_comes_back():
    sites = those()
    sites.deployed("site-1", "site-1: no")
    assert not sites.returned("site-1")
    assert sites.failure_of("site-1") == "site-1: no"


def test_a_crashed_trainer_is_started_again_a_few_times():
    sites = those()
    for _ in range(RESTARTS):
        assert sites.ended("site-1", "site-1: killed", is_crash=True)
        assert sites.failure_of("site-1") == ""
    assert not sites.ended("site-1", "site-1: killed", is_crash=True)
    assert sites.failure_of("site-1") == "site-1: killed"


def test_a_trainer_that_said_why_it_failed_is_not_started_again():
    sites = those()
    assert not sites.ended("site-1", "site-1: ValueError", is_crash=False)
    assert sites.failure_of("site-1") == "site-1: ValueError"


def test_a_trainer_that_was_told_to_end_is_started_again_and_counts_as_a_crash():
    sites = those()
    for _ in range(RESTARTS):
        sites.stopping("site-1", "site-1: too slow")
        assert sites.failure_of("site-1") == "site-1: too slow"
        assert sites.ended("site-1", "", is_crash=False)
        assert sites.failure_of("site-1") == ""
    sites.stopping("site-1", "site-1: too slow")
    assert not sites.ended("site-1", "", is_crash=False)
    assert sites.failure_of("site-1") == "site-1: too slow"


def test_a_site_that_was_away_too_long_is_asked_again_once_it_is_back():
    sites = those()
    sites.gone("site-1", "site-1: no connection for 60 s")
    assert sites.failure_of("site-1") == "site-1: no connection for 60 s"
    assert sites.returned("site-1")
    assert sites.failure_of("site-1") == ""


def test_a_site_that_says_nothing_is_named_although_enough_others_have_started():
    sites = those(min_clients=1)
    sites.deployed("site-1", "")
    assert sites.review()
    assert sorted(sites.silent()) == ["site-2", "site-3"]
    sites.deployed("site-2", "")
    assert sorted(sites.silent()) == ["site-3"]


def test_a_trainer_that_has_not_heard_that_it_is_to_end_is_not_asked():
    sites = those()
    sites.stopping("site-1", "site-1: too slow")
    assert sites.returned("site-1", has_trainer=True)
    assert (sites.is_stopping("site-1"), sites.failure_of("site-1")) == (True, "site-1: too slow")
    assert sites.returned("site-1")
    assert (sites.is_stopping("site-1"), sites.failure_of("site-1")) == (False, "")


def test_a_resumed_job_does_not_end_because_its_sites_are_away():
    sites = those(is_deploying=False)
    for site in SITES:
        sites.gone(site, f"{site}: away")
    assert not sites.review()
    assert sites.problem == ""
    assert sites.silent() == {}

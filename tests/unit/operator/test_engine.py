"""The engine on a cloud that does what real ones do: it is full, slow, changed by others, and refuses."""

import json

import pytest
from clouddeploy_providers.errors import AuthenticationError, CapacityError
from clouddeploy_providers.fake_cloud import FakeCloud
from clouddeploy_providers.resources import Kind
from clouddeploy_runtime.errors import ExitCode

from clouddeploy.audit import verify
from clouddeploy.errors import ConfigError, Interrupted, PartialFailure, PreflightFailed
from clouddeploy.journal import Journal
from clouddeploy.secrets import Secret

ALL = [
    "server1/address",
    "server1/firewall",
    "server1/machine",
    "site-1/firewall",
    "site-1/machine",
    "site-2/firewall",
    "site-2/machine",
]


def test_applied_twice_nothing_is_left_to_do_and_nothing_is_made_twice(trial):
    assert sorted(trial.actions()) == ALL
    for _ in range(2):
        trial.apply()
        assert trial.actions() == {}
    assert trial.cloud.created == len(ALL)
    for _ in range(2):
        assert trial.destroy().left == ()
    assert trial.cloud.names == []


def test_a_plan_says_what_everything_costs_and_where_the_price_is_from(trial):
    plan = trial.plan()
    assert plan.is_refreshed
    machine = next(change for change in plan.changes if change.node == "site-1/machine")
    assert (machine.size, machine.image) == ("small", "fake-image")
    assert machine.price.source == "fake price list"
    assert plan.usd_per_hour > 0.06
    assert {one.participant: one.action for one in plan.signatures}["site-1"] == "created"


def test_an_offline_plan_asks_nobody(trial):
    trial.sites["site-1"] = {"credentials": "wrong"}
    plan = trial.plan(is_offline=True)
    assert sorted(change.node for change in plan.pending) == ALL
    assert not plan.is_refreshed
    with pytest.raises(AuthenticationError):
        trial.plan()


def test_a_need_becomes_the_cheapest_size_that_has_it(trial):
    trial.sites["site-1"] = {"gpus": 1}
    trial.apply()
    assert trial.thing("site-1", "machine")["outputs"]["size"] == "gpu"
    assert trial.actions() == {}


def test_a_need_that_nothing_satisfies_stops_before_anything_is_created(trial):
    trial.sites["site-1"] = {"gpus": 8}
    trial.sites["site-2"] = {"vcpus": 999}
    with pytest.raises(PreflightFailed) as caught:
        trial.apply()
    assert "8 GPUs" in str(caught.value)
    assert "999 vCPUs" in str(caught.value)
    assert trial.cloud.created == 0


def test_what_the_clouds_find_is_reported_at_once_and_nothing_is_created(trial):
    """Sizes and permissions are asked in one go, so that the user mends all of it at once."""
    trial.sites["site-1"] = {"size": "enormous"}
    trial.sites["site-2"] = {"denied": "create machine"}
    with pytest.raises(PreflightFailed) as caught:
        trial.apply()
    assert "site-1: size" in caught.value.why
    assert "site-2: permissions" in caught.value.why
    assert trial.cloud.created == 0


def test_a_full_size_is_followed_by_a_sibling_when_that_is_asked_for(trial):
    trial.sites["site-1"] = {"size": "small", "siblings": True, "no_capacity": "small"}
    trial.apply()
    assert trial.thing("site-1", "machine")["outputs"]["size"] != "small"
    assert [e.phase for e in trial.events if e.site == "site-1" and e.title == "create machine"][:2] == [
        "start",
        "again",
    ]
    assert trial.actions() == {}


def test_without_siblings_a_full_size_fails_its_site_and_no_other(trial):
    trial.sites["site-1"] = {"size": "small", "no_capacity": "small"}
    with pytest.raises(PartialFailure) as caught:
        trial.apply()
    assert caught.value.exit_code == ExitCode.PARTIAL
    assert "site-1" in str(caught.value)
    assert "run apply again" in caught.value.hint
    assert {event.phase for event in trial.events if event.site == "site-2" and event.title == "register"} == {
        "start",
        "done",
    }
    trial.sites["site-1"] = {}
    before = trial.thing("site-2", "machine")["id"]
    trial.apply()
    assert trial.thing("site-2", "machine")["id"] == before


def test_a_server_that_fails_is_the_answer(trial):
    trial.sites["server1"] = {"size": "small", "no_capacity": "small"}
    with pytest.raises(CapacityError):
        trial.apply()


def test_a_full_zone_is_followed_by_the_next(trial):
    trial.sites["site-1"] = {"zones": ["zone-1", "zone-3"], "no_capacity": "zone-1"}
    trial.apply()
    assert trial.thing("site-1", "machine")["outputs"]["zone"] == "zone-3"


def test_what_others_did_meanwhile_is_shown_and_mended(trial):
    trial.apply()
    trial.cloud.allow(trial.name_of("site-1", "firewall"), port=22, source="0.0.0.0/0")
    trial.cloud.stop(trial.name_of("site-2", "machine"))
    statuses = {status.name: status.drift for status in trial.deployment().status(is_refresh=True)}
    assert "0.0.0.0/0" in statuses["site-1"][0]
    assert statuses["site-2"] == ("machine: it is stopped",)
    assert trial.actions() == {"site-1/firewall": "update", "site-2/machine": "update"}
    before = trial.thing("site-2", "machine")["id"]
    trial.apply()
    assert trial.actions() == {}
    assert trial.thing("site-2", "machine")["id"] == before
    assert trial.cloud.rules(trial.name_of("site-1", "firewall")) == {(22, "192.0.2.1/32")}


def test_a_machine_that_somebody_deleted_is_made_again(trial):
    trial.apply()
    before = trial.thing("site-1", "machine")["id"]
    trial.cloud.remove(trial.name_of("site-1", "machine"))
    assert trial.actions() == {"site-1/machine": "replace"}
    trial.apply()
    assert trial.thing("site-1", "machine")["id"] != before
    assert trial.actions() == {}


def test_deleting_what_somebody_already_deleted_is_fine(trial):
    trial.apply()
    for name in trial.cloud.names:
        trial.cloud.remove(name)
    assert trial.destroy().left == ()


def test_the_servers_address_survives_when_others_have_it_in_their_lists(trial):
    trial.apply()
    address = trial.thing("server1", "address")["outputs"]["address"]
    result = trial.destroy(keep_address=True)
    assert result.left == ()
    assert trial.cloud.names == list(result.kept)
    assert [change.node for change in trial.plan().changes if change.action == "keep"] == ["server1/address"]
    trial.apply()
    assert trial.thing("server1", "machine")["outputs"]["address"] == address
    trial.destroy()
    assert trial.cloud.names == []


def test_one_site_is_applied_beside_the_others(trial):
    with pytest.raises(ConfigError, match="cannot run without the server"):
        trial.apply(sites=frozenset({"site-1"}))
    trial.apply(sites=frozenset({"server1"}))
    assert {node.split("/")[0] for node in trial.actions()} == {"site-1", "site-2"}
    trial.apply(sites=frozenset({"site-1"}))
    assert {node.split("/")[0] for node in trial.actions()} == {"site-2"}
    with pytest.raises(ConfigError, match="site-9 is no site"):
        trial.apply(sites=frozenset({"site-9"}))


def test_the_first_interrupt_finishes_what_is_in_flight_and_the_next_run_resumes(trial):
    trial.sites = {name: {"latency_s": "0.05"} for name in trial.sites}
    deployment = trial.deployment()

    def interrupt(event):
        if event.title == "create machine" and event.phase == "start":
            trial.cancel.set()

    with pytest.raises(Interrupted) as caught:
        deployment.apply(Secret("correct horse"), on_event=interrupt)
    assert caught.value.exit_code == ExitCode.INTERRUPTED
    assert "run apply again" in caught.value.hint
    assert " money" in caught.value.hint
    made = trial.cloud.created
    assert deployment.deployment_id()
    trial.cancel.clear()
    trial.apply()
    assert trial.cloud.created == len(ALL)
    assert made > 0


def test_the_servers_port_opens_to_the_sites_alone(trial):
    trial.top["federation_sources"] = "sites"
    trial.apply()
    name = trial.name_of("server1", "firewall")
    sites = {trial.thing(site, "machine")["outputs"]["address"] for site in ("site-1", "site-2")}
    assert trial.cloud.rules(name) == {
        (22, "192.0.2.1/32"),
        (8002, "192.0.2.1/32"),
        *((8002, f"{address}/32") for address in sites),
    }
    assert trial.actions() == {}
    assert trial.plan().warnings == ()


def test_a_port_that_is_open_already_leaves_no_question_in_the_journal(trial):
    trial.top["federation_sources"] = "sites"
    trial.apply()
    trial.apply()
    assert Journal(trial.deployment().directory / "journal.jsonl").open_intents() == []


def test_a_port_open_to_the_world_is_said(trial):
    (warning,) = trial.plan().warnings
    assert "open to the world" in warning
    assert warning in trial.apply().warnings


def test_another_place_of_the_operator_moves_ssh_and_changes_nothing_else(trial):
    trial.apply()
    created = trial.cloud.created
    trial.caller = "198.51.100.77"
    changes = trial.deployment().refresh_access()
    assert sorted(change.node for change in changes) == ["server1/firewall", "site-1/firewall", "site-2/firewall"]
    assert trial.cloud.rules(trial.name_of("site-1", "firewall")) == {(22, "198.51.100.77/32")}
    assert trial.cloud.created == created
    assert trial.deployment().refresh_access() == []


def test_a_machine_that_exists_is_adopted_and_never_deleted(trial, tmp_path):
    trial.cloud.add(Kind.MACHINE, "theirs")
    reach = {"user": "fl", "identity_file": str(tmp_path / "key"), "host_key": "SHA256:" + "A" * 43}
    trial.sites["site-1"] = {"machine": "theirs", **reach}
    trial.apply()
    assert trial.actions() == {}
    result = trial.destroy()
    assert trial.cloud.names == ["theirs"]
    assert len(result.released) == 1
    assert result.left == ()


def test_a_site_that_leaves_the_file_lets_go_of_what_it_adopted(trial, tmp_path):
    trial.cloud.add(Kind.MACHINE, "theirs")
    reach = {"user": "fl", "identity_file": str(tmp_path / "key"), "host_key": "SHA256:" + "A" * 43}
    trial.sites["site-1"] = {"machine": "theirs", **reach}
    trial.apply()
    del trial.sites["site-1"]
    assert trial.actions() == {"site-1/machine": "release"}
    trial.apply()
    assert "theirs" in trial.cloud.names


def test_a_network_that_exists_is_used_and_left(trial):
    trial.cloud.add(Kind.NETWORK, "hospital-net")
    trial.sites["site-1"] = {"network": "hospital-net"}
    trial.apply()
    trial.destroy()
    assert trial.cloud.names == ["hospital-net"]


def test_machines_switch_themselves_off_when_their_time_is_over(trial):
    trial.top["ttl"] = "8h"
    trial.apply()
    first = trial.thing("site-1", "machine")
    assert first["expires_at"]
    trial.apply()
    assert trial.thing("site-1", "machine")["expires_at"] == first["expires_at"]


def test_a_machine_whose_time_is_over_is_made_anew_and_not_started(trial):
    """It would switch itself off again at once."""
    trial.top["ttl"] = "8h"
    trial.apply()
    before = trial.thing("site-1", "machine")
    past = "2026-01-01T00:00:00Z"
    with trial.cloud.changing() as content:
        for thing in content["things"].values():
            thing["expires_at"] = past if thing["expires_at"] else ""
    state = trial.deployment().directory / "state.json"
    state.write_text(state.read_text().replace(before["expires_at"], past))
    actions = trial.actions()
    assert {node: action for node, action in actions.items() if node.endswith("machine")} == dict.fromkeys(
        ("server1/machine", "site-1/machine", "site-2/machine"), "replace"
    )
    trial.apply()
    after = trial.thing("site-1", "machine")
    assert after["id"] != before["id"]
    assert after["expires_at"] > past
    assert trial.actions() == {}


def test_a_call_whose_answer_was_lost_and_repeated_leaves_nothing_twice(trial):
    """A cloud may show the first thing only after the second was made; both carry our tag."""
    trial.apply()
    with trial.cloud.changing() as content:
        name = next(name for name in content["things"] if "-server1-address-" in name)
        content["things"][name + "-twin"] = {**content["things"][name], "id": "fake-999", "needs": []}
    assert trial.destroy().left == ()
    assert trial.cloud.names == []


def test_every_step_is_in_the_audit_trail_and_no_secret(trial):
    trial.apply()
    trial.destroy()
    path = trial.deployment().directory / "audit.jsonl"
    text = path.read_text()
    assert verify(path).entries > len(ALL)
    assert '"create machine"' in text
    assert "correct horse" not in text
    assert "PRIVATE KEY" not in text


def test_another_region_after_a_kill_leaves_nothing_behind_in_the_first(trial):
    """What a killed run made where nobody looks any more would cost money for ever."""
    trial.sites["server1"] = {"crash_after": "1"}
    trial.apply_killed()
    elsewhere = trial.folder / "other.json"
    trial.sites["server1"] = {"file": str(elsewhere)}
    trial.apply()
    assert not [name for name in trial.cloud.names if "-server1-" in name]
    trial.destroy()
    assert (trial.cloud.names, FakeCloud(elsewhere).names) == ([], [])


def test_a_cloud_that_shows_new_things_late_hides_nothing_from_destroy(trial):
    trial.sites["server1"] = {"crash_after": "1", "lag_s": "0.4"}
    trial.apply_killed()
    trial.sites["server1"] = {"lag_s": "0.4"}
    assert trial.destroy().left == ()
    assert trial.cloud.names == []


def test_the_address_is_kept_though_the_state_was_lost(trial):
    trial.apply()
    (trial.deployment().directory / "state.json").unlink()
    assert len(trial.destroy(keep_address=True).kept) == 1
    assert trial.actions()["server1/address"] == "update"
    address = trial.thing("server1", "address")["id"]
    trial.apply()
    assert trial.thing("server1", "address")["id"] == address
    assert trial.actions() == {}
    trial.destroy()
    assert trial.cloud.names == []


def test_a_full_quota_does_not_stop_a_run_that_resumes_or_replaces(trial):
    """What exists under a name that is asked for is no further one."""
    trial.sites["server1"] = {"quota_addresses": "1", "quota_vcpus": "6", "crash_after": "1"}
    trial.apply_killed()
    quotas = {"quota_addresses": "1", "quota_vcpus": "6"}
    trial.sites = dict.fromkeys(trial.sites, quotas)
    trial.apply()
    trial.sites = {site: {**quotas, "disk_gib": 64} for site in trial.sites}
    trial.apply()
    assert trial.actions() == {}


def test_a_machine_found_of_an_earlier_wish_is_seen_as_that(trial):
    trial.apply(sites=frozenset({"server1"}))
    trial.sites["site-1"] = {"size": "small", "crash_after": "5"}
    trial.apply_killed("site-1")
    trial.sites["site-1"] = {"size": "large"}
    trial.apply()
    assert trial.actions() == {"site-1/machine": "replace"}
    trial.apply()
    assert trial.thing("site-1", "machine")["outputs"]["size"] == "large"
    assert trial.actions() == {}


def test_naming_the_size_that_it_has_replaces_nothing(trial):
    trial.apply()
    trial.sites["site-1"] = {"size": "small"}
    assert trial.actions() == {}
    trial.sites["site-1"] = {"size": "large"}
    assert trial.actions() == {"site-1/machine": "replace"}


def test_a_site_that_leaves_is_shut_out_of_the_servers_port(trial):
    """Its address may be a stranger's tomorrow."""
    trial.top["federation_sources"] = "sites"
    trial.apply()
    gone = trial.thing("site-2", "machine")["outputs"]["address"]
    del trial.sites["site-2"]
    trial.apply()
    rules = trial.cloud.rules(trial.name_of("server1", "firewall"))
    assert (8002, f"{gone}/32") not in rules
    assert trial.actions() == {}


def test_a_site_that_comes_later_alone_is_let_in_too(trial):
    trial.top["federation_sources"] = "sites"
    trial.apply(sites=frozenset({"server1", "site-1"}))
    trial.apply(sites=frozenset({"site-2"}))
    address = trial.thing("site-2", "machine")["outputs"]["address"]
    assert (8002, f"{address}/32") in trial.cloud.rules(trial.name_of("server1", "firewall"))
    assert trial.actions() == {}


def test_another_way_to_reach_an_adopted_machine_is_looked_up_again(trial, tmp_path):
    trial.cloud.add(Kind.MACHINE, "theirs")
    reach = {"machine": "theirs", "user": "fl", "identity_file": str(tmp_path / "key")}
    trial.sites["site-1"] = {**reach, "host_key": "SHA256:" + "A" * 43}
    trial.apply()
    trial.sites["site-1"] = {**reach, "host_key": "SHA256:" + "B" * 43}
    assert trial.actions() == {"site-1/machine": "update"}
    trial.apply()
    assert trial.actions() == {}
    assert "B" * 43 in (trial.deployment().directory / "state.json").read_text()


def test_a_ttl_that_comes_later_is_said_to_come_too_late(trial):
    trial.apply()
    trial.top["ttl"] = "8h"
    assert any("will not switch itself off" in warning for warning in trial.plan().warnings)
    assert trial.actions() == {}


def test_only_ssh_moves_though_the_file_says_more(trial):
    trial.apply()
    before = trial.cloud.rules(trial.name_of("server1", "firewall"))
    trial.top["federation_sources"] = ["10.0.0.0/8"]
    trial.sites["site-2"] = {"gpus": 60}
    trial.caller = "198.51.100.77"
    trial.deployment().refresh_access()
    after = trial.cloud.rules(trial.name_of("server1", "firewall"))
    assert after == {(22, "198.51.100.77/32"), *(rule for rule in before if rule[0] == 8002)}


def test_a_state_that_was_lost_makes_no_stray_of_a_living_deployment(trial):
    trial.apply()
    identity = trial.deployment().deployment_id()
    (trial.deployment().directory / "state.json").unlink()
    assert trial.deployment().deployment_id() == identity


def test_a_name_that_is_no_site_cannot_be_abandoned(trial):
    with pytest.raises(ConfigError, match="site-9 is no site"):
        trial.destroy(abandoned=frozenset({"site-9"}))


def test_of_several_failures_each_is_named_when_destroying(trial):
    trial.apply()
    path = trial.deployment().directory / "state.json"
    state = json.loads(path.read_text())
    for site in ("server1", "site-1"):
        state["resources"][f"{site}/machine"]["settings"]["denied"] = "delete machine"
    path.write_text(json.dumps(state))
    with pytest.raises(PartialFailure) as caught:
        trial.destroy()
    assert caught.value.exit_code == ExitCode.PARTIAL
    assert caught.value.what == "destroy failed at server1, site-1"


def test_two_places_of_one_account_show_the_same_and_neither_calls_it_a_stray(trial):
    """A subscription's tags are searched as a whole, whatever location a site is in."""
    trial.sites["site-1"] = {"no_capacity": "large"}  # other settings, so another place that sees the same cloud
    trial.sites["server1"] = {"crash_after": "5"}
    trial.sites["site-2"] = {"crash_after": "5"}
    trial.sites["site-1"]["crash_after"] = "5"
    trial.apply_killed()
    made = set(trial.cloud.names)
    for given in trial.sites.values():
        del given["crash_after"]
    trial.apply()
    assert made <= set(trial.cloud.names)
    assert trial.cloud.created == len(ALL)


def test_what_is_found_again_without_its_facts_gets_them(trial):
    """A cloud's search may know no more than a name and an id."""
    trial.apply()
    path = trial.deployment().directory / "state.json"
    state = json.loads(path.read_text())
    for record in state["resources"].values():
        record["fingerprint"] = {}
        record["ref"]["outputs"] = {}
    path.write_text(json.dumps(state))
    trial.apply()
    assert trial.actions() == {}
    assert json.loads(path.read_text())["resources"]["server1/address"]["ref"]["outputs"]["address"]
    assert trial.cloud.created == len(ALL)


def test_a_result_that_could_not_be_saved_is_looked_for_again(trial):
    """Whatever ends a run between a result and its record, the intent stays open."""

    def broken(event):
        if event.title == "create address" and event.phase == "done":
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        trial.deployment().apply(Secret("correct horse"), on_event=broken)
    journal = Journal(trial.deployment().directory / "journal.jsonl")
    assert "server1/address" in {intent.node for intent in journal.open_intents()}
    trial.apply()
    assert trial.cloud.created == len(ALL)
    assert trial.actions() == {}

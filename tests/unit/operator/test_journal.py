from clouddeploy.journal import Journal

PLACE = {"provider": "aws", "settings": {"region": "us-west-2"}}


def test_an_intent_without_a_result_is_open_and_knows_its_place(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.intend("create", node="server1/machine", name="cd-x", token="cd-x/0", **PLACE)
    (intent,) = Journal(tmp_path / "journal.jsonl").open_intents()
    assert (intent.operation, intent.node, intent.name) == ("create", "server1/machine", "cd-x")
    assert (intent.provider, dict(intent.settings)) == ("aws", {"region": "us-west-2"})


def test_done_and_failed_close_an_intent(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    for node in ("a/machine", "b/machine"):
        journal.intend("create", node=node, name=node, **PLACE)
    journal.done("create", node="a/machine", name="a/machine", id="i-1")
    journal.failed("create", node="b/machine", name="b/machine", error="no capacity")
    assert journal.open_intents() == []


def test_half_a_line_left_by_a_kill_is_ignored_and_not_built_upon(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"event": "intend", "operation": "crea')
    journal = Journal(path)
    assert journal.open_intents() == []
    journal.intend("create", node="a/machine", name="a", **PLACE)
    assert [intent.node for intent in journal.open_intents()] == ["a/machine"]


def test_the_file_is_for_its_owner_only(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.note("apply", deployment="0123abcd")
    assert (tmp_path / "journal.jsonl").stat().st_mode & 0o777 == 0o600

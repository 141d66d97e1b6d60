"""Whether a site lives, as its container's engine asks."""

from __future__ import annotations

import json

import pytest
from clouddeploy_runtime import lifecycle, liveness


@pytest.mark.parametrize(
    ("state", "is_ready"), [("serving", True), ("registered", True), ("connecting", False), (None, False)]
)
def test_a_site_lives_while_its_process_holds_its_lock(tmp_path, state, is_ready):
    with lifecycle.only_one(tmp_path):
        if state:
            (tmp_path / "status.json").write_text(json.dumps({"state": state}))
        assert liveness.main([str(tmp_path)]) == 0
        assert liveness.main([str(tmp_path), "--ready"]) == (0 if is_ready else 1)


def test_a_site_whose_process_is_gone_does_not_live_whatever_it_has_left(tmp_path, capsys):
    (tmp_path / "status.json").write_text(json.dumps({"state": "serving"}))
    assert liveness.main([str(tmp_path)]) == 1
    (tmp_path / "pid.fl").write_text("17")
    assert liveness.main([str(tmp_path)]) == 1
    assert "no process holds" in capsys.readouterr().err

"""The notebook of an admin's kit, run by a kernel against the federation of that kit."""

from __future__ import annotations

import shutil
import warnings

import nbclient
import nbformat
import pytest
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.kit import manifest
from clouddeploy_runtime.kit.errors import KitTampered

from tests.integration.federation import tiny_job

NAME = "system_info.ipynb"
ADMIN = "root@example.com"
TRAIN = """
from clouddeploy_runtime.job import client_api as flare
flare.init()
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    flare.send(flare.FLModel(params=model.params, metrics={"loss": 1.0}, samples=1))
"""
WATCH = 'job_id = session.submit_job("job")\nsession.watch(job_id, 90)'
DRAW = "%matplotlib inline\nsession.plot_metrics(job_id);"


def test_the_notebook_of_a_kit_runs_from_top_to_bottom(provisioned, tmp_path, monkeypatch):
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    provisioned.start("server1", "site-1")
    kit = provisioned.kits[ADMIN]
    shipped = kit / "startup" / NAME
    signed = manifest.decode((kit / manifest.MANIFEST_PATH).read_bytes())
    assert f"startup/{NAME}" in {entry.path for entry in signed.files}
    provisioned.until(provisioned.connected, what="a client")

    copy = shutil.copy(shipped, kit / "transfer" / NAME)
    tiny_job(kit / "transfer" / "job", client=TRAIN)
    notebook = nbformat.read(copy, as_version=4)
    own = [nbformat.v4.new_code_cell(WATCH), nbformat.v4.new_code_cell(DRAW)]
    notebook.cells[-1:-1] = own  # before the session is closed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the kernel's own libraries
        resources = {"metadata": {"path": str(kit / "transfer")}}
        nbclient.NotebookClient(notebook, timeout=100, resources=resources).execute()

    session, system, jobs, free, watched, drawn, closed = (
        cell.outputs for cell in notebook.cells if cell.cell_type == "code"
    )
    assert ADMIN in session[0].data["text/html"]
    assert "serving" in system[0].data["text/html"]
    assert "site-1" in system[0].data["text/html"]
    assert "Jobs" in jobs[0].data["text/html"]
    assert "site-1" in free[0].data["text/plain"]
    assert "FINISHED:COMPLETED" in watched[0].data["text/html"]
    assert "image/png" in drawn[0].data
    assert closed == []

    nbformat.write(notebook, copy)
    kits.verify(kit)
    nbformat.write(notebook, shipped)
    with pytest.raises(KitTampered, match=NAME):
        kits.verify(kit)

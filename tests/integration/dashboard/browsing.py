"""A dashboard that runs, a browser in front of it, and the processes of the kits that come out of it."""

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pyzipper

CREDENTIAL = "root@hub.example:four words in a row:hub"
EMAIL, PASSWORD, _ = CREDENTIAL.split(":")
CHROMIUM = shutil.which("chromium") or ""
PICTURES = Path(__file__).parents[3] / "docs" / "images" / "dashboard"
REWRITE = "CLOUDDEPLOY_PICTURES"
"""Set: the pictures of the documentation are made anew; else pictures go to the test's own folder."""
SHORTEN = r"""() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode())
    node.data = node.data.replace(/\/tmp\/\S*?\/dashboard/g, "/srv/dashboard");
}"""
"""Folders of tests are nobody's business in the documentation."""
WIDE = {"width": 1100, "height": 760}
PHONE = {"width": 375, "height": 740}


def clouddeploy(folder, *words, check=True):
    env = {
        **os.environ,
        "CLOUDDEPLOY_CA_PASSPHRASE": "of the authority",
        "CLOUDDEPLOY_DASHBOARD_CREDENTIAL": CREDENTIAL,
    }
    done = subprocess.run(
        [sys.executable, "-m", "clouddeploy.cli", "dashboard", *words, "-f", str(folder), "--output", "json"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def runtime(folder, *words):
    """Runs `clouddeploy-runtime` as somebody at a site does."""
    command = [sys.executable, "-m", "clouddeploy_runtime", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def unpacked(archive, code, folder):
    """Unpacks an archive with its code, as its owner does."""
    with pyzipper.AESZipFile(io.BytesIO(archive)) as file:
        file.setpassword(code.encode())
        for info in file.infolist():
            file.extract(info, folder)
            (folder / info.filename).chmod(info.external_attr >> 16 & 0o777)
    (kit,) = folder.iterdir()
    return kit


@contextlib.contextmanager
def running(kind, kit, workspace, *, port):
    """Runs a server or a client of a kit."""
    workspace.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "clouddeploy_runtime", kind, str(kit), "--workspace", str(workspace)],
        env={**os.environ, "CLOUDDEPLOY_BIND": f"127.0.0.1:{port}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()


def state_of(workspace):
    """What a client says of itself."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return json.loads((workspace / "status.json").read_bytes())["state"]
    return ""


def laboratory(folder, *, port):
    """A deploy file of one server on this machine, as an operator puts it into the dashboard's folder."""
    folder.mkdir(mode=0o700, parents=True)
    folder.parent.parent.chmod(0o700)
    server = {"name": "server1", "type": "server", "org": "hub", "fed_learn_port": port, "host_names": ["127.0.0.1"]}
    admin = {"name": EMAIL, "type": "admin", "org": "hub", "role": "project_admin"}
    names = (
        "workspace.WorkspaceBuilder",
        "static_file.StaticFileBuilder",
        "cert.CertBuilder",
        "signature.SignatureBuilder",
    )
    builders = [{"path": f"nvflare.lighter.impl.{name}"} for name in names]
    project = {"api_version": 3, "name": "lab", "participants": [server, admin], "builders": builders}
    (folder / "project.yml").write_text(json.dumps(project))
    sites = {"server1": {"provider": "local", "directory": str(folder / "sites")}}
    (folder / "deploy.yml").write_text(json.dumps({"version": 1, "project": "project.yml", "sites": sites}))


class Person:
    """Somebody in front of a browser of their own."""

    def __init__(self, browser, url, **how):
        self._browser, self._url = browser, url
        self.context = browser.new_context(
            base_url=url, ignore_https_errors=True, **{"viewport": WIDE, "color_scheme": "light", **how}
        )
        self.context.set_default_timeout(30_000)
        self.page = self.context.new_page()
        self.said = []
        """What the browser complains about: refused by the policy, not found, broken scripts."""
        self.page.on("console", lambda one: self.said.append(one.text) if one.type in {"error", "warning"} else None)
        self.page.on("pageerror", lambda one: self.said.append(str(one)))

    def beside(self):
        """Somebody else in front of the same dashboard."""
        return Person(self._browser, self._url)

    def go(self, path):
        self.page.goto(path)
        return self.page

    def log_in(self, email=EMAIL, password=PASSWORD):
        page = self.go("/")
        page.get_by_label("E-mail").fill(email)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("button", name="Log out").wait_for()
        return self

    def sign_up(self, email, *, org, role):
        page = self.go("/")
        page.get_by_role("link", name="Sign up").click()
        page.get_by_label("E-mail").fill(email)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_label("Organisation").fill(org)
        page.get_by_label("Role").select_option(role)
        page.get_by_role("button", name="Sign up").click()
        page.get_by_role("heading", name="What to do next").wait_for()

    def download(self, name, folder):
        """Has a kit prepared, downloads it and unpacks it with the code that the page shows."""
        page = self.go("/downloads")
        page.get_by_role("button", name=f"Prepare the kit of {name}").click()
        code = page.locator("#secret").inner_text()
        with page.expect_download() as waiting:
            page.get_by_role("link", name="Download", exact=True).click()
        return unpacked(Path(waiting.value.path()).read_bytes(), code, folder)

    def picture(self, name, folder):
        """Takes a picture of the page as it is."""
        target = PICTURES if os.environ.get(REWRITE) else folder
        self.page.wait_for_load_state()
        self.page.evaluate(SHORTEN)
        size = self.page.viewport_size
        end = self.page.evaluate("Math.ceil(document.querySelector('main').getBoundingClientRect().bottom)")
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], end)}
        self.page.screenshot(path=target / f"{name}.png", animations="disabled", clip=clip)

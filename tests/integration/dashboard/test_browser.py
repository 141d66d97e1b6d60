"""The dashboard in a real browser: from an empty folder to a site that is registered, and how good the pages are."""

import contextlib
import os

import pytest
from axe_playwright_python.sync_playwright import Axe
from clouddeploy_rehearsal.probe import until
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.admin.session import AdminSession
from playwright import sync_api as playwright

from tests.integration import rounds
from tests.integration.dashboard import browsing
from tests.integration.dashboard.browsing import (
    CHROMIUM,
    PHONE,
    WIDE,
    Person,
    clouddeploy,
    free_port,
    laboratory,
    running,
    runtime,
    state_of,
)

CAN_INSTALL = os.geteuid() == 0 or "CI" in os.environ
"""scripts/setup installs Chromium as root; where it could have been, that it is missing is a failure."""
pytestmark = [
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(not CHROMIUM and not CAN_INSTALL, reason="there is no Chromium: apt-get install chromium"),
]
PAGES = (
    "/",
    "/live",
    "/deployments",
    "/deployments/lab",
    "/downloads",
    "/sites",
    "/users",
    "/project",
    "/certificates",
    "/audit",
    "/account",
)
ANN = "ann@org-a.example"
TRAIN = """
import time
from clouddeploy_runtime.job import client_api as flare
flare.init()
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    number = model.current_round
    metrics = {"loss": 2.0 / (number + 2), "accuracy": 1.0 - 1.0 / (number + 3) ** 1.5}
    flare.send(flare.FLModel(params=model.params, metrics=metrics, samples=1))
"""
ROUNDS = 8
LONG = "maximiliane.von-und-zu-langenname@universitaetsklinikum.example"
LONG_ORG = "universitaetsklinikum_of_the_longest_name_that_somebody_found"
LONG_SITE = "department-of-radiology-and-nuclear-medicine-building-12-floor-3"


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM, "there is no Chromium; scripts/setup dev installs it"
    with playwright.sync_playwright() as player:
        # The sandbox wants a user other than root.
        one = player.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-lcd-text"]
        )
        yield one
        one.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("browser") / "dashboard"


@pytest.fixture(scope="module")
def url(folder):
    laboratory(folder / "deployments" / "lab", port=free_port())
    yield clouddeploy(folder, "start", "--host", "127.0.0.1", "-p", "0")["data"]["url"]
    clouddeploy(folder, "stop")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def walked(browser, url, pictures, tmp_path_factory):
    """The whole way, each step by who takes it, in the pages alone; returns the kits that were downloaded."""
    folder, port = tmp_path_factory.mktemp("kits"), free_port()
    root, ann = Person(browser, url), Person(browser, url)
    root.go("/")
    root.picture("login", pictures)
    root.log_in()
    root.page.get_by_role("link", name="Describe the project").click()
    for label, value in {
        "Short name": "trial",
        "Title": "Tumour segmentation trial",
        "Name": "localhost",
        "Port": str(port),
        "Further names and addresses": "127.0.0.1",
    }.items():
        root.page.get_by_label(label, exact=True).fill(value)
    root.page.get_by_label("Public: everybody").check()
    root.page.get_by_role("button", name="Save").click()
    root.go("/project")
    root.picture("project", pictures)

    ann.sign_up(ANN, org="org_a", role="org_admin")
    ann.page.get_by_role("link", name="List your sites").click()
    ann.page.get_by_label("Name").fill("site-1")
    ann.page.get_by_label("GPUs").fill("2")
    ann.page.get_by_label("GiB each").fill("16")
    ann.page.get_by_role("button", name="Add").click()
    ann.page.get_by_role("rowheader", name="site-1").wait_for()

    root.go("/")
    root.picture("overview", pictures)
    for link, path in (("Approve people", "people"), ("Approve sites", "sites")):
        root.go("/")
        root.page.get_by_role("link", name=link).click()
        root.page.locator("tbody input[type=checkbox]").check()
        root.picture(path, pictures)
        root.page.get_by_role("button", name="Approve").click()
    root.go("/")
    root.page.get_by_role("link", name="Freeze the project").click()
    root.page.get_by_label("Short name and server stay for good").check()
    root.page.get_by_role("button", name="Freeze the project").click()
    root.page.get_by_text("Kits depend on the short name").wait_for()
    found = {"server": root.download("localhost", folder / "server")}
    found["admin"] = root.download(browsing.EMAIL, folder / "admin")
    found["client"] = ann.download("site-1", folder / "client")
    ann.picture("downloads", pictures)
    said = [*root.said, *ann.said]
    root.context.close()
    ann.context.close()
    return found, port, said


@pytest.fixture(scope="module")
def federation(walked, tmp_path_factory):
    """The server and the site, from the kits that the browser downloaded."""
    found, port, _ = walked
    folder = tmp_path_factory.mktemp("federation")
    with contextlib.ExitStack() as processes:
        for kind in ("server", "client"):
            processes.enter_context(running(kind, found[kind], folder / kind, port=port))
        until(lambda: state_of(folder / "client") == "registered", timeout_s=30)
        yield folder


@pytest.fixture(scope="module")
def cookies(browser, url, walked):
    """Of the project admin, who logs in once: a password takes its time to check."""
    one = Person(browser, url).log_in()
    yield one.context.storage_state()
    one.context.close()


@pytest.fixture
def root(browser, url, cookies):
    one = Person(browser, url, storage_state=cookies)
    yield one
    one.context.close()


def test_the_kits_that_a_browser_downloaded_are_whole(walked):
    found, port, said = walked
    for kit in found.values():
        kits.verify(kit)
    client = kits.load(found["client"])
    assert (client.name, client.host, client.port) == ("site-1", "localhost", port)
    assert not said, "the browser complained"


def test_the_site_registers_with_the_server_of_the_same_dashboard(federation):
    assert state_of(federation / "client") == "registered"


def test_the_live_page_follows_site_and_job_without_being_reloaded(root, walked, federation, pictures, tmp_path):
    found, _, _ = walked
    page = root.go("/live")
    row = page.get_by_role("row", name="site-1")
    row.get_by_text("connected").wait_for()
    row.get_by_text("s ago").wait_for()
    page.get_by_text("1 of 1 sites").wait_for()
    with AdminSession(kits.load(found["admin"])) as session:
        job_id = session.submit(
            rounds.job(tmp_path / "job", rounds=ROUNDS, script=TRAIN, min_clients=1, name="tumours")
        )
        session.wait(job_id, timeout_s=40)
    page.get_by_text("FINISHED:COMPLETED").wait_for()
    page.get_by_text(f"{ROUNDS} of {ROUNDS} rounds").wait_for()
    chart = page.get_by_role("img", name="accuracy")
    chart.wait_for()
    assert len(chart.locator("polyline").get_attribute("points").split()) == ROUNDS
    root.picture("live", pictures)
    assert not root.said, "the browser complained"


def test_a_deployment_is_planned_made_and_deleted_before_one_s_eyes(root, pictures):
    page = root.go("/deployments")
    page.get_by_role("link", name="lab").click()
    page.get_by_role("button", name="Plan").click()
    page.get_by_text("1 change(s), 0 as wanted").wait_for()
    page.get_by_label("Make what the plan says").check()
    root.picture("plan", pictures)
    page.get_by_role("button", name="Apply").click()
    page.get_by_role("button", name="Stop after what is in flight").wait_for()
    page.locator("#log").get_by_text("create machine").wait_for()
    root.picture("apply", pictures)
    page.get_by_text("1 site(s) are ready").wait_for(timeout=60_000)
    root.go("/deployments")
    root.picture("deployments", pictures)
    page.get_by_role("link", name="lab").click()
    page.get_by_label("Delete everything that lab made").check()
    page.get_by_role("button", name="Destroy").click()
    page.get_by_text("1 deleted, nothing left").wait_for()
    assert not root.said, "the browser complained"


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.nightly)])
def test_axe_finds_nothing_serious(browser, url, cookies, scheme):
    axe = Axe()
    # What is not about colours is the same in the dark.
    options = {"runOnly": ["color-contrast"]} if scheme == "dark" else None
    person = Person(browser, url, color_scheme=scheme, storage_state=cookies)
    found = []
    for path in ("/sign-up", "/proof", "/account/second-factor", *PAGES):
        found += _findings(axe, person.go(path), options)
    person.context.close()
    assert not found


def test_a_phone_shows_every_page_without_scrolling_sideways(browser, url, cookies):
    person = Person(browser, url, viewport=PHONE, storage_state=cookies)
    widths = {path: person.go(path).evaluate("document.documentElement.scrollWidth") for path in PAGES}
    person.context.close()
    assert {path: one for path, one in widths.items() if one > PHONE["width"]} == {}


def test_an_invitation_is_a_whole_address_that_leads_to_an_account(browser, url, root):
    page = root.go("/users")
    page.get_by_label("Organisation", exact=True).fill("org_c")
    page.get_by_role("button", name="Make a link").click()
    page.get_by_role("heading", name="Invitation").wait_for()
    address = page.locator("#secret").inner_text()
    assert address.startswith(f"{url.rstrip('/')}/sign-up?invitation=")
    guest = Person(browser, url)
    page = guest.go(address)
    page.get_by_text("You are invited as lead of org_c").wait_for()
    page.get_by_label("E-mail").fill("cem@org-c.example")
    page.get_by_label("Password").fill(browsing.PASSWORD)
    page.get_by_role("button", name="Sign up").click()
    page.get_by_role("link", name="Wait for your approval").wait_for()
    assert not guest.said, "the browser complained"
    guest.context.close()


def test_somebody_without_a_mouse_logs_in_and_skips_the_menu(browser, url, walked):
    person = Person(browser, url)
    page = person.go("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    while page.evaluate("document.activeElement.name") != "email":
        page.keyboard.press("Tab")
    page.keyboard.type(browsing.EMAIL)
    page.keyboard.press("Tab")
    page.keyboard.type(browsing.PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Log out").wait_for()
    page = person.go("/account")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/account#main")
    page.keyboard.press("Tab")
    assert page.evaluate("document.getElementById('main').contains(document.activeElement)")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "one sees where one is"
    person.context.close()


def test_the_pages_follow_a_dark_system(browser, url, cookies, pictures):
    shades = {}
    for scheme in ("light", "dark"):
        person = Person(browser, url, color_scheme=scheme, storage_state=cookies)
        person.go("/")
        shades[scheme] = person.page.evaluate("getComputedStyle(document.body).backgroundColor")
        if scheme == "dark":
            person.go("/live")
            person.picture("dark", pictures)
        person.context.close()
    assert _brightness(shades["light"]) > 200
    assert _brightness(shades["dark"]) < 60


def test_the_other_pages_have_their_picture(root, pictures):
    pages = {"certificates": "/certificates", "audit": "/audit", "account": "/account", "proof": "/proof?back=/project"}
    for name, path in pages.items():
        root.go(path)
        root.picture(name, pictures)
    root.page.set_viewport_size(PHONE)
    root.go("/live")
    root.picture("phone", pictures)
    root.page.set_viewport_size(WIDE)
    assert not root.said


def test_a_site_that_comes_after_the_freeze_and_keeps_its_key_registers_too(root, walked, federation, tmp_path):
    """With the commands of the guide; the site that is there stays registered."""
    _, port, _ = walked
    ann = root.beside().log_in(ANN)
    page = ann.go("/sites")
    page.get_by_label("Name", exact=True).fill("site-2")
    page.get_by_role("button", name="Add").click()
    page.get_by_role("rowheader", name="site-2").wait_for()
    root.go("/sites?q=site-2").get_by_label("site-2", exact=True).check()
    root.page.get_by_role("button", name="Approve").click()
    root.page.wait_for_url("**/sites?q=site-2")
    audit = root.go("/audit?q=freeze_project")
    fingerprint = audit.get_by_role("row", name="freeze_project").locator("td").last.inner_text().split()[-1]

    runtime(tmp_path, "request", "--project", "trial", "--name", "site-2", "--org", "org_a")
    (request,) = tmp_path.rglob("site-2.request.zip")
    page = ann.go("/downloads?q=site-2")
    page.get_by_text("Keep the private key there").click()
    page.get_by_label("Request of site-2").set_input_files(request)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Send the request").click()
    waiting.value.save_as(tmp_path / "signed.zip")
    runtime(tmp_path, "package", "signed.zip", "--fingerprint", fingerprint, "-w", "workspace")
    kit = next(path.parent for path in (tmp_path / "workspace").rglob("startup"))
    with running("client", kit, tmp_path / "running", port=port):
        until(lambda: state_of(tmp_path / "running") == "registered", timeout_s=30)
        page = root.go("/live")
        page.get_by_text("2 of 2 sites").wait_for()
    assert state_of(federation / "client") == "registered"
    ann.context.close()


@pytest.mark.nightly  # the other pages on a phone are the sample
def test_long_names_fit_a_phone(browser, url, cookies):
    ann = Person(browser, url, viewport=PHONE)
    ann.sign_up(LONG, org=LONG_ORG, role="org_admin")
    page = ann.go("/sites")
    page.get_by_label("Name", exact=True).fill(LONG_SITE)
    page.get_by_role("button", name="Add").click()
    page.get_by_role("rowheader", name=LONG_SITE).wait_for()
    root = Person(browser, url, viewport=PHONE, storage_state=cookies)
    for path, row in (("/users", LONG), ("/sites", LONG_SITE)):
        root.go(path).get_by_label(row, exact=True).check()
        root.page.get_by_role("button", name="Approve").click()
        root.page.wait_for_url(f"**{path}")
    wide = [
        (path, person.page.url)
        for person, paths in ((root, PAGES), (ann, ("/", "/live", "/downloads", "/sites", "/users", "/account")))
        for path in paths
        if person.go(path).evaluate("document.documentElement.scrollWidth") > PHONE["width"]
    ]
    assert wide == []
    # A button is one line, however little room its table leaves.
    tall = root.go("/users").evaluate(
        "Math.max(...[...document.querySelectorAll('td button')].map(b => b.offsetHeight), 0)"
    )
    assert tall < 60
    ann.context.close()
    root.context.close()


def _findings(axe, page, options):
    """What axe calls serious or critical on a page."""
    return [
        (page.url, one["id"], [node["html"][:200] for node in one["nodes"]][:3])
        for one in axe.run(page, options=options).response["violations"]
        if one["impact"] in {"serious", "critical"}
    ]


def _brightness(colour):
    numbers = colour.removeprefix("rgb(").removesuffix(")").split(",")
    return sum(map(int, numbers)) / 3

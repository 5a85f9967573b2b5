"""The pages in Chromium: what is read out of them is what Python says, by mouse and keyboard, wide and narrow, light
and dark, without a request to any other host; and what attacks or crowds the server leaves it as it was.
"""

import os
import re
import shutil
import subprocess
import tarfile

import numpy as np
import psutil
import pytest
from gradio_client import handle_file
from PIL import Image
from test_demo_endpoints import NO_IMAGES, upload

from modeling_omni_vision.demo.classify import attention, classify
from modeling_omni_vision.demo.compare import compare
from modeling_omni_vision.demo.example_images import EXAMPLES, FASHION
from modeling_omni_vision.demo.zero_shot import zero_shot
from modeling_omni_vision.retrieval.index import ImageIndex


pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
BAG, BOOT = str(FASHION / "bag.png"), str(FASHION / "ankle-boot.png")
WAIT = 40_000


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs a Chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(chromium):
    """A function that opens a page; at the end no request may have left for another host, and no script failed."""
    opened, asked, failed = [], [], []

    def call(served, width=1280, dark=False):
        page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
        page.set_default_timeout(WAIT)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.goto(f"{served.address}{'?__theme=dark' if dark else ''}")
        page.wait_for_selector("h1")
        page.get_by_role("tab").first.wait_for()
        opened.append(page)
        return page

    yield call
    for page in opened:
        folder = os.environ.get("DEMO_SCREENSHOTS")
        if folder:
            name = os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split(" ")[0]
            page.screenshot(path=f"{folder}/{name}-{page.viewport_size['width']}.png", full_page=True)
        page.close()
    others = {url for url in asked if not re.match(r"(http://127\.0\.0\.1:|data:|blob:)", url)}
    assert (others, failed) == (set(), [])


def visible(page, selector):
    return page.locator(f"{selector}:visible")


def choose(page, file, number=0):
    """Upload a file into an image input that is shown."""
    page.locator("[role=tabpanel]:visible input[type=file]").nth(number).set_input_files(file)


def test_classes_and_maps_of_an_upload_are_those_of_python(classifier, show):
    page = show(classifier)
    page.wait_for_selector("text=classes appear here, once there is an image")
    choose(page, BAG)
    page.wait_for_selector(".bars li")
    expected = classify(classifier.opened, BAG)["top"]
    assert visible(page, ".bars .name").all_inner_texts() == [one["label"] for one in expected]
    assert visible(page, ".bars .value").all_inner_texts() == [f"{one['probability']:.1%}" for one in expected]
    # By keyboard: one step of the slider is the layer before.
    page.get_by_role("slider", name="Layer").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("text=layer 3 of 4")
    highest = max(map(max, attention(classifier.opened, BAG, 3, 0)["values"]))
    alt = visible(page, "figure img").first.get_attribute("alt")
    assert alt == f"Attention of CLS in layer 3, mean of 2 heads: at most {highest:.1f} times an even share"
    page.get_by_role("button", name="Draw the occlusion map").press("Enter")
    page.wait_for_selector("text=Patches that Bag depends on")
    # Another image: the old map is gone.
    visible(page, ".gallery-item").first.click()
    page.wait_for_selector("text=Not computed yet.")


@pytest.mark.parametrize("name", ["text.png", "<b>name.png", "bomb.png"])
def test_what_is_no_image_is_said_in_the_page_which_then_goes_on(name, classifier, show, tmp_path):
    content, sentence = NO_IMAGES[name]
    (tmp_path / name).write_bytes(content)
    page = show(classifier)
    visible(page, ".gallery-item").first.click()
    page.wait_for_selector(".bars li")
    page.get_by_role("button", name="Remove Image").or_(page.get_by_label("Remove Image")).first.click()
    choose(page, str(tmp_path / name))
    toast = page.get_by_test_id("toast-body").first
    toast.wait_for()
    said = toast.inner_text().replace("\n", " ")
    assert re.search(sentence, said)
    assert not toast.locator("b").count()
    page.get_by_role("button", name="Remove Image").or_(page.get_by_label("Remove Image")).first.click()
    choose(page, BAG)
    page.wait_for_selector(".bars li >> text=Bag")


def test_two_images_are_compared_on_a_narrow_dark_screen(classifier, show):
    page = show(classifier, width=360, dark=True)
    page.get_by_role("tab", name="Compare").focus()
    page.keyboard.press("Enter")
    choose(page, BAG)
    choose(page, BOOT, -1)
    page.wait_for_selector("svg.matches")
    expected = compare(classifier.opened, BAG, BOOT, 3, 12)
    assert visible(page, ".figure strong").inner_text() == f"{expected['similarity']:.3f}"
    assert visible(page, "svg .match").count() == len(expected["matches"])
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", background)[:3])) < 60


def test_hits_and_names_are_those_of_python(search, show):
    page = show(search)
    page.get_by_label("Words").fill("a red circle")
    page.get_by_label("Only where").fill("name LIKE '%square%'")
    page.get_by_label("Words").press("Enter")
    page.wait_for_selector(".hits h3")
    index = ImageIndex(EXAMPLES.folder / "index", search.opened.encoder, make=False)
    hits = index.search_text("a red circle", limit=6, where="name LIKE '%square%'")
    names = [f"{rank}. {one.metadata['name']}" for rank, one in enumerate(hits, 1)]
    assert visible(page, ".hits h3").all_inner_texts() == names
    assert visible(page, ".hits li:first-child figcaption").count() == 3
    page.get_by_label("Only where").fill("colour = 1")
    page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_test_id("toast-body").first.wait_for()
    page.get_by_role("tab", name="Zero-shot").click()
    choose(page, str(EXAMPLES.scenes[0]))
    given = "red square\n${alert(1)}\n<b>star</b>"
    page.get_by_label("Names to choose from").fill(given)
    page.get_by_role("button", name="Classify").click()
    page.wait_for_selector(".bars li")
    expected = zero_shot(search.opened, str(EXAMPLES.scenes[0]), given)["top"]
    assert visible(page, ".bars .name").all_inner_texts() == [one["label"] for one in expected]


def test_a_chat_is_shown_and_goes_on(language, show):
    page = show(language)
    visible(page, "tr.tr-body").nth(2).click()
    page.wait_for_function(
        "document.querySelector('[role=tabpanel] input[type=text], [role=tabpanel] textarea')?.value"
    )
    page.get_by_role("button", name="Ask", exact=True).click()
    page.wait_for_selector("text=Patches that the answer needed")
    page.get_by_label("Question", exact=True).fill("Who painted it?")
    page.get_by_label("Question", exact=True).press("Enter")
    page.wait_for_selector("text=The question was not answered.")
    assert page.get_by_test_id("user").count() == page.get_by_test_id("bot").count() == 2
    assert "did not learn to answer" in page.get_by_test_id("bot").last.inner_text()
    page.get_by_role("button", name="New chat").click()
    page.wait_for_selector("text=After an answer")
    assert page.get_by_test_id("user").count() == 0


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The program of axe-core, from npm."""
    folder = tmp_path_factory.mktemp("axe")
    packed = subprocess.run(["npm", "pack", "axe-core@4", "--silent"], cwd=folder, capture_output=True, text=True)
    if packed.returncode:
        pytest.skip("npm cannot reach axe-core")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["classifier", "search", "language"])
def test_no_tab_has_a_serious_barrier(name, dark, show, axe, request):
    page = show(request.getfixturevalue(name), dark=dark)
    found = {}
    for tab in page.get_by_role("tab").all():
        tab.click()
        page.wait_for_timeout(700)
        for example in (".gallery-item", "tr.tr-body"):
            if visible(page, example).count():
                visible(page, example).first.click()
                page.wait_for_timeout(2500)
        if not page.evaluate("window.axe !== undefined"):
            page.evaluate(axe)
        result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        for one in result["violations"]:
            if one["impact"] in ("serious", "critical"):
                found[tab.inner_text(), one["id"]] = [node["html"][:200] for node in one["nodes"]][:4]
    assert found == {}


def test_an_upload_of_a_gigabyte_is_refused_and_the_server_lives(classifier, show, tmp_path):
    status, text = upload(classifier.address, 1 << 30)
    assert status == 413
    assert "exceeded maximum allowed size" in text
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 30)
    page = show(classifier)
    choose(page, str(tmp_path / "huge.png"))
    toast = page.get_by_test_id("toast-body").first
    toast.wait_for()
    assert "size" in toast.inner_text().lower()
    assert classifier.client().predict(handle_file(BAG), api_name="/classify")["top"][0]["label"] == "Bag"


def test_memory_is_flat_under_parallel_requests(classifier, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(50):
        Image.fromarray(rng.integers(0, 256, (600, 600, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    client, process = classifier.client(), psutil.Process()

    def burst():
        files = [handle_file(str(tmp_path / f"{number}.png")) for number in range(50)]
        jobs = [client.submit(file, api_name="/classify") for file in files]
        answers = [job.result()["top"] for job in jobs]
        return answers, process.memory_info().rss

    first, _ = burst()
    _, before = burst()
    for _ in range(3):
        again, after = burst()
        assert again == first
    assert (after - before) / 2**20 < 60

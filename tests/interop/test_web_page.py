"""The static page in a real browser: its pixels, logits, words, errors, memory without a network, and accessibility.

Chromium of the system, driven by playwright; the packages of npm are kept in `.cache/npm`.
"""

import base64
import contextlib
import functools
import hashlib
import http.server
import json
import shutil
import subprocess
import tarfile
import threading
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from packaging.version import Version
from PIL import Image, ImageDraw

from modeling_omni_vision import (
    OmniVisionConfig,
    OmniVisionForImageClassification,
    OmniVisionImageProcessor,
    OmniVisionImageProcessorPil,
    OmniVisionModel,
)
from modeling_omni_vision.interop.export import ExportedModel, ExportOptions, export_web, vendor
from modeling_omni_vision.interop.export.vendor import Package


pytestmark = pytest.mark.slow
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CACHE = Path(__file__).parent.parent.parent / ".cache" / "npm"
AXE = Package(
    "axe-core",
    "4.14.1",
    "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
    {"axe.min.js": "axe.js"},
)
FLOAT = "wasm-fp32"
SECONDS = 1000  # of playwright's milliseconds


@pytest.fixture(scope="module")
def archives():
    """The folder of the archives, downloaded once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if not all((CACHE / package.archive).is_file() for package in vendor.PACKAGES):
        try:
            vendor.download(CACHE)
        except ValueError as error:
            pytest.skip(str(error))
    return CACHE


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on the path")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def save(folder, redrawn, model_class, **fields):
    redrawn(model_class(OmniVisionConfig(**fields)).eval()).save_pretrained(folder)
    OmniVisionImageProcessor().save_pretrained(folder)
    return folder


def photograph(width, height, seed, mode="RGB"):
    """Gradients, edges and noise, as photographs have them."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [127 + 90 * np.sin(columns / draw.uniform(9, 60) + rows / draw.uniform(9, 60)) for _ in range(3)]
    pixels = np.stack(waves, -1) + draw.normal(0, 12, (height, width, 3))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    corner = [int(one) for one in draw.integers(0, min(width, height) // 2, 2)]
    ImageDraw.Draw(image).ellipse([*corner, corner[0] + width // 3, corner[1] + height // 3], fill="red")
    return image.convert(mode)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, redrawn, archives):
    """The page of a ViTTiny with random weights, of 8 bits and float32."""
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    place = tmp_path_factory.mktemp("classifier")
    names = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    folder = save(place / "vit-tiny", redrawn, OmniVisionForImageClassification, **labels)
    (place / "images").mkdir()
    for index in range(24):
        photograph(320, 240, index).save(place / "images" / f"{index:02}.png")
    options = ExportOptions(max_drop=100)
    return export_web(folder, place / "page", options, images=[str(place / "images")], vendor=archives)


class Handler(http.server.SimpleHTTPRequestHandler):
    """As `python -m http.server`, silent."""

    def log_message(self, *_):
        """Print nothing."""


@contextlib.contextmanager
def served(folder, below=""):
    """Serve a folder, below a path, as any static host does."""
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{below}"
        server.shutdown()


@contextlib.contextmanager
def opened(chromium, address, **options):
    """Yield the page when it is ready, and the hosts that it asked."""
    with contextlib.closing(chromium.new_context(**options)) as context:
        page = context.new_page()
        page.set_default_timeout(120 * SECONDS)
        hosts = set()
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        page.goto(address)
        page.wait_for_selector("#file:enabled")
        yield page, hosts


def choose(page, file):
    """Choose a file, wait for its result, and return the numbers that the page saves."""
    page.set_input_files("#file", str(file))
    page.wait_for_function(
        "name => document.querySelector('#status').textContent.startsWith(name + ',')", arg=file.name
    )
    with page.expect_download() as download:
        page.click("#save")
    return json.loads(Path(download.value.path()).read_text())


def engine(page, name):
    page.select_option("#engine", name)
    # The last file is shown again.
    text = page.locator(f"#engine option[value={name}]").inner_text().partition(" (")[0]
    if page.locator("#save").is_visible():
        page.wait_for_function("text => document.querySelector('#runs').textContent.includes(text)", arg=text)
    page.wait_for_selector("#progress", state="hidden")


def array(found):
    return np.array(found["data"], np.float64).reshape(found["shape"])


def python_pixels(file):
    found = OmniVisionImageProcessorPil()(
        [Image.open(file)], return_tensors="np", do_rescale=False, do_normalize=False
    )
    return np.moveaxis(found["pixel_values"][0], 0, -1)


def exported(page, is_int8):
    record = json.loads((page / "model" / "export.json").read_text())
    return ExportedModel(page / "model", record | {"quantize": "weights" if is_int8 else None}, None, None)


def test_weights_and_download_are_small(classifier):
    assert (classifier.folder / "model" / "onnx" / "model_quantized.onnx").stat().st_size <= 2e6
    assert classifier.downloaded <= 8e6


@pytest.mark.skipif(Version(PIL.__version__) < Version("13"), reason="Pillow 13 changed the order")
def test_opaque_png_has_the_pixels_and_logits_of_python(tmp_path, chromium, classifier):
    sizes = [
        (640, 480, "RGB"),
        (97, 300, "RGB"),
        (224, 224, "RGB"),
        (50, 31, "L"),
        (333, 444, "P"),
        (1600, 900, "RGB"),
    ]
    model = OmniVisionForImageClassification.from_pretrained(classifier.folder.parent / "vit-tiny").eval()
    runs = {FLOAT: exported(classifier.folder, False), "wasm-q8": exported(classifier.folder, True)}
    worst = dict.fromkeys(runs, 0.0)
    with served(classifier.folder) as address, opened(chromium, address) as (page, hosts):
        for name, run in runs.items():
            engine(page, name)
            for number, (width, height, mode) in enumerate(sizes):
                file = tmp_path / f"{number}.png"
                photograph(width, height, number, mode).save(file)
                found = choose(page, file)
                assert np.array_equal(array(found["pixels"]), python_pixels(file)), (file.name, mode)
                pixels = torch.tensor(array(found["pixel_values"]), dtype=torch.float32)
                with torch.inference_mode():
                    logits = model(pixels).logits if name == FLOAT else run(pixels)["logits"]
                worst[name] = max(worst[name], np.abs(array(found["outputs"]["logits"]) - logits.numpy()).max())
                probability, label = logits.softmax(1)[0].max(0)
                text = page.locator("#result li").first.inner_text().split("\n")
                if name == FLOAT:
                    assert text[0] == model.config.id2label[int(label)]
                    assert abs(float(text[-1].removesuffix("%")) - 100 * float(probability)) <= 0.06
                    shown = run(pixels)["attention"].numpy()
                    np.testing.assert_allclose(array(found["outputs"]["attention"]), shown, atol=1e-5)
        assert hosts == {address.split("/")[2]}
    print(f"largest differences of logits: {worst}")
    assert max(worst.values()) <= 1e-4


def test_jpeg_and_alpha_differ_by_what_the_pages_say(tmp_path, chromium, classifier):
    found = {}
    with served(classifier.folder) as address, opened(chromium, address) as (page, _):
        for number in range(4):
            image = photograph(640, 480, number)
            fade = Image.fromarray(np.tile(np.linspace(0, 255, 640).astype(np.uint8), (480, 1)))
            files = {"4:2:0": "a.jpg", "4:4:4": "b.jpg", "alpha": "c.png", "upright": "d.jpg"}
            files = {kind: tmp_path / f"{number}{name}" for kind, name in files.items()}
            image.save(files["4:2:0"], quality=85)
            image.save(files["4:4:4"], quality=85, subsampling=0)
            exif = Image.Exif()
            exif[0x0112] = 6
            image.save(files["upright"], quality=85, exif=exif)
            image.putalpha(fade)
            image.save(files["alpha"])
            for kind, file in files.items():
                apart = np.abs(array(choose(page, file)["pixels"]) - python_pixels(file))
                found.setdefault(kind, []).append((apart.max(), apart.mean()))
    worst = {kind: tuple(np.max(apart, 0).round(4)) for kind, apart in found.items()}
    print(f"largest and mean difference in levels: {worst}")
    assert all(largest <= 4 and mean <= 0.5 for largest, mean in worst.values())


def test_it_works_below_a_path_without_a_host_after_the_first_visit(tmp_path, chromium, classifier):
    photograph(300, 200, 1).save(tmp_path / "one.png")
    with contextlib.closing(chromium.new_context()) as context:
        page = context.new_page()
        page.set_default_timeout(120 * SECONDS)
        with served(classifier.folder.parent, "page/?from=a-link") as address:
            page.goto(address)
            page.wait_for_selector("#file:enabled")
            page.wait_for_function("() => document.querySelector('#offline').textContent.includes('works offline')")
            before = choose(page, tmp_path / "one.png")
        page.reload()  # nothing answers any more
        page.wait_for_selector("#file:enabled")
        page.click("#examples button >> nth=2")
        page.wait_for_selector("#result li")
        after = choose(page, tmp_path / "one.png")
        assert before["outputs"] == after["outputs"]


def bomb(file, side=40_000):
    """A PNG of 1.6 billion pixels in some kilobytes."""
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(side // 8 + 1)) for _ in range(side)) + rows.flush()
    chunks = [(b"IHDR", side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])), (b"IDAT", data), (b"IEND", b"")]
    parts = [
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
        for kind, body in chunks
    ]
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_what_cannot_be_opened_is_a_sentence_and_the_page_goes_on(tmp_path, chromium, classifier):
    photograph(300, 200, 1).save(tmp_path / "good.png")
    (tmp_path / "text.png").write_text("no image at all")
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.png").read_bytes()[:100])
    with (tmp_path / "huge.png").open("wb") as huge:
        huge.truncate(2**30)
    bomb(tmp_path / "bomb.png")
    sentences = {"text.png": "is no image", "empty.png": "is empty", "cut.jpg": "is no image", "huge.png": "1073.7 MB"}
    with served(classifier.folder) as address, opened(chromium, address) as (page, _):
        for name, sentence in {**sentences, "bomb.png": "bomb.png"}.items():
            page.set_input_files("#file", str(tmp_path / name))
            page.wait_for_selector("#error:visible")
            text = page.inner_text("#error")
            assert text.startswith(name), text
            assert sentence in text, text
            assert text.endswith("."), text
            choose(page, tmp_path / "good.png")
            assert page.locator("#error").is_hidden()


def test_an_encoder_finds_the_nearest_of_its_index_as_python_does(tmp_path, chromium, redrawn, archives):
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    folder = save(tmp_path / "encoder", redrawn, OmniVisionModel)
    found = export_web(folder, tmp_path / "page", ExportOptions(quantize="none"), vendor=archives).folder
    about = json.loads((found / "page.json").read_text())
    vectors = np.frombuffer((found / about["index"]["vectors"]["fp32"]).read_bytes(), "<f4").reshape(100, -1)
    photograph(300, 200, 1).save(tmp_path / "one.png")
    with served(found) as address, opened(chromium, address) as (page, _):
        numbers = choose(page, tmp_path / "one.png")
        shown = [one.split("\n") for one in page.locator("#result li").all_inner_texts()]
    with torch.inference_mode():
        pixels = torch.tensor(array(numbers["pixel_values"]), dtype=torch.float32)
        query = OmniVisionModel.from_pretrained(folder).eval()(pixels).pooler_output[0].numpy()
    scores = vectors @ (query / np.linalg.norm(query))
    order = np.argsort(-scores)[:8]
    assert [one["index"] for one in numbers["best"]] == order.tolist()
    assert [one[0] for one in shown] == [about["index"]["images"][row]["label"] for row in order]
    assert shown[0][-1] == f"cosine {scores.max():.3f}"


def test_keys_alone_reach_everything_and_narrow_screens_need_no_scrolling_sideways(tmp_path, chromium, classifier):
    with served(classifier.folder) as address:
        for width in (1280, 390, 320):
            with opened(chromium, address, viewport={"width": width, "height": 800}) as (page, _):
                reached = []
                for _ in range(40):
                    page.keyboard.press("Tab")
                    reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
                    if reached[-1] == "BUTTON" and page.locator("#result li").count() == 0:
                        page.keyboard.press("Enter")
                        page.wait_for_selector("#save:visible")
                assert {"file", "BUTTON", "layer", "head", "engine", "save"} <= set(reached)
                page.focus("#layer")
                last = page.get_attribute("#attention", "aria-label")
                page.keyboard.press("ArrowLeft")
                assert page.get_attribute("#attention", "aria-label") != last
                assert page.inner_text("#layer-value") == "3 of 4"
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_has_no_findings_before_and_after_an_image_and_beside_an_error(tmp_path, chromium, classifier, scheme):
    script = axe()
    (tmp_path / "text.png").write_text("no image at all")
    photograph(300, 200, 1).save(tmp_path / "one.png")
    with (
        served(classifier.folder) as address,
        opened(chromium, address, color_scheme=scheme, bypass_csp=True) as (page, _),
    ):
        page.evaluate(script)
        for step in (
            lambda: None,
            lambda: choose(page, tmp_path / "one.png"),
            lambda: refuse(page, tmp_path / "text.png"),
        ):
            step()
            found = page.evaluate("axe.run()")["violations"]
            assert not [(one["id"], one["impact"], one["nodes"][0]["html"]) for one in found]


def refuse(page, file):
    page.set_input_files("#file", str(file))
    page.wait_for_selector("#error:visible")


def axe():
    file = CACHE / AXE.archive
    if not file.is_file():
        command = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(CACHE), AXE.specifier]
        if shutil.which("npm") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip(f"npm cannot download {AXE.specifier}")
    assert AXE.integrity == "sha512-" + base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode()
    with tarfile.open(file) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()

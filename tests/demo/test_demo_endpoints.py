"""Each tab says over HTTP what the same model says in Python; a mistake is a sentence, and the server lives."""

import http.client
import io
import json
import re
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from transformers import pipeline

from modeling_omni_vision.cli.ask import ask
from modeling_omni_vision.data.synthetic.shapes import draw_scene
from modeling_omni_vision.demo.example_images import EXAMPLES, FASHION
from modeling_omni_vision.demo.page import MAX_FILE_SIZE, MAX_PIXELS
from modeling_omni_vision.demo.zero_shot import zero_shot
from modeling_omni_vision.interpretability.occlusion import explain_answer
from modeling_omni_vision.retrieval.evaluation import zero_shot_predictions
from modeling_omni_vision.retrieval.index import ImageIndex


def test_tabs_follow_from_the_kind_of_the_checkpoint_and_every_endpoint_is_described(classifier, search, language):
    names = {
        served: set(served.client().view_api(return_format="dict", print_info=False)["named_endpoints"])
        for served in (classifier, search, language)
    }
    assert names[classifier] == {"/classify", "/attention", "/occlusion", "/compare"}
    assert names[search] == {"/search", "/zero_shot", "/compare", "/attention"}
    assert names[language] == {"/ask", "/new_chat", "/compare", "/attention"}
    for served in names:
        for about in served.client().view_api(return_format="dict", print_info=False)["named_endpoints"].values():
            assert about["description"]


def test_classes_are_those_of_the_pipeline(classifier):
    classify = pipeline("image-classification", classifier.folder, trust_remote_code=True)
    client = classifier.client()
    for name in ("bag", "ankle-boot"):
        file = str(FASHION / f"{name}.png")
        found = client.predict(handle_file(file), api_name="/classify")["top"]
        expected = classify(file, top_k=5)
        assert [one["label"] for one in found] == [one["label"] for one in expected]
        assert [one["probability"] for one in found] == pytest.approx([one["score"] for one in expected], abs=1e-5)


def test_attention_is_that_of_the_layer_and_head(classifier):
    client, file = classifier.client(), str(FASHION / "bag.png")
    pixels = classifier.opened.pixels(file)[0]
    for layer, head in ((1, 2), (4, 0)):
        maps = classifier.opened.classifier.attention_maps(pixels, [layer - 1])[0, 0]
        shares = maps / maps.sum((-2, -1), keepdim=True) * maps[0].numel()
        wanted = shares[head - 1] if head else shares.mean(0)
        found = client.predict(handle_file(file), layer, head, api_name="/attention")
        assert np.allclose(found["values"], wanted.detach(), atol=1e-5)
        assert f"layer {layer} of 4" in found["html"]
    for layer, head in ((0, 0), (5, 0), (1, 3)):
        with pytest.raises(AppError, match=r"layer from 1 to 4 and a head from 0 to 2|Value"):
            client.predict(handle_file(file), layer, head, api_name="/attention")


def test_an_occlusion_map_has_the_nats_that_the_class_loses(classifier):
    file = str(FASHION / "bag.png")
    found = classifier.client().predict(handle_file(file), api_name="/occlusion")
    assert found["label"] == "Bag"
    pixels = classifier.opened.pixels(file)[0]
    hidden = pixels.clone()
    hidden[..., 8:20, 12:24] = pixels.mean((-2, -1), keepdim=True)  # the window around row 3, column 4
    with torch.no_grad():
        before, after = (classifier.opened.classifier(one).logits.log_softmax(-1)[0, 8] for one in (pixels, hidden))
    assert found["values"][3][4] == pytest.approx(float(before - after), abs=1e-4)


def test_an_image_matches_itself_patch_by_patch(classifier):
    file = handle_file(str(FASHION / "bag.png"))
    found = classifier.client().predict(file, file, 3, 50, api_name="/compare")
    assert found["similarity"] == pytest.approx(1, abs=1e-5)
    assert {tuple(one["first"]) == tuple(one["second"]) for one in found["matches"]} == {True}
    assert found["html"].count("<line") == 2 * len(found["matches"]) > 40
    cosines = [one["cosine"] for one in found["matches"]]
    assert all(one >= other for one, other in pairwise(cosines))


def test_hits_are_those_of_the_index(search):
    index = ImageIndex(EXAMPLES.folder / "index", search.opened.encoder, make=False)
    ask_for = {"image": None, "folder": "all folders", "where": "", "limit": 3, "maps": False}

    def asked(**given):
        return search.client().predict(*{"text": "", **ask_for, **given}.values(), api_name="/search")

    expected = index.search_text("a red circle", limit=3)
    found = asked(text="a red circle", maps=True)
    assert [(one["image"], one["score"]) for one in found["hits"]] == [(one.path, one.score) for one in expected]
    assert found["words"] == ["a", "red", "circle"]
    assert np.asarray(found["hits"][0]["maps"]).shape == (3, 8, 8)
    image = EXAMPLES.scenes[5]
    assert asked(image=handle_file(str(image)))["hits"][0]["image"] == str(image)
    few = asked(text="a red circle", where="name LIKE '%star%'", limit=24)["hits"]
    assert 0 < len(few) < 24
    assert all("star" in one["image"] for one in few)
    unknown = asked(text="zebra")
    assert (unknown["hits"], unknown["unknown_words"]) == ([], ["zebra"])
    assert "no word of the query is known" in unknown["html"]
    assert "none of 48 images passes" in asked(text="a star", where="bytes > 1000000")["html"]
    for given, said in (
        ({"text": "a star", "where": "colour = 1"}, "colour"),
        ({"text": "a star", "where": "name LIKE 'x' OR"}, "."),
        ({"text": "a star", "image": handle_file(str(image))}, "got both"),
        ({}, "got neither"),
    ):
        with pytest.raises(AppError, match=said):
            asked(**given)


def test_the_best_name_is_that_of_the_command(search):
    names = ["red square", "yellow triangle", "blue star", "<b>${alert(1)}</b>"]
    found = search.client().predict(
        handle_file(str(EXAMPLES.scenes[0])), "\n".join(names), "This is a {}", api_name="/zero_shot"
    )
    image = Image.open(EXAMPLES.scenes[0])
    best = zero_shot_predictions(search.opened.encoder.model, [image], names, ["This is a {}"])
    assert found["top"][0]["label"] == names[int(best[0])]
    assert sorted(one["label"] for one in found["top"]) == sorted(names)
    assert "<b>" not in found["html"]
    # Braces that are no place for the name are text.
    odd = zero_shot(search.opened, str(EXAMPLES.scenes[0]), "red square\nblue star", "a {} {zebra} {")
    assert "zebra" in odd["unknown_words"]
    for text, template, said in (
        ("one", "a {}", "two names"),
        ("one\ntwo", "a", "templates with"),
        ("a," * 300, "{}", "two"),
    ):
        with pytest.raises(AppError, match=said):
            search.client().predict(handle_file(str(EXAMPLES.scenes[0])), text, template, api_name="/zero_shot")


def test_an_answer_is_streamed_and_that_of_the_command(language, capsys):
    client, file = language.client(), str(EXAMPLES.scenes[0])
    job = client.submit(handle_file(file), "How many objects are there?", False, api_name="/ask")
    chat, patches = job.result()
    expected = ask(language.folder, file, "How many objects are there?")
    capsys.readouterr()
    assert said(chat) == ["How many objects are there?", expected.strip()]
    assert len(job.outputs()) > 3
    explained = explain_answer(*language.opened.language[::-1], Image.open(file), "How many objects are there?")
    assert np.allclose(patches["values"], explained.relevance, atol=1e-4)
    # The session goes on, and ends.
    chat, _ = client.predict(handle_file(file), "How many objects are there?", False, api_name="/ask")
    assert len(chat) == 4
    assert client.predict(api_name="/new_chat")[0] == []


def said(chat):
    """Return the texts of a chat, whose content may be parts."""
    return [one["content"] if isinstance(one["content"], str) else one["content"][0]["text"] for one in chat]


def test_a_question_that_was_not_learned_is_refused_in_the_chat_unless_forced(language):
    file = handle_file(str(EXAMPLES.scenes[0]))
    chat, patches = language.client().predict(file, "Who painted it?", False, api_name="/ask")
    assert "did not learn to answer 'Who painted it?'" in said(chat)[1]
    assert "values" not in patches
    chat, patches = language.client().predict(file, "Who painted it?", True, api_name="/ask")
    assert "did not learn" not in said(chat)[1]
    assert "values" in patches
    for image, question, sentence in ((None, "Why?", "an image and a question"), (file, "why " * 600, "at most 448")):
        with pytest.raises(AppError, match=sentence):
            language.client().predict(image, question, True, api_name="/ask")


def bomb(pixels):
    """A PNG of a few bytes that says it has so many pixels."""
    width = int(pixels**0.5)
    buffer = io.BytesIO()
    Image.new("1", (8, 8)).save(buffer, "PNG")
    content = buffer.getvalue()
    header = b"IHDR" + width.to_bytes(4, "big") * 2 + content[24:29]
    return content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]


NO_IMAGES = {
    "text.png": (b"This is no image.\n" * 40, "text.png.*cannot be read"),
    "<b>name.png": (b"x", "name.png"),
    "empty.png": (b"", "empty.png"),
    "bomb.png": (bomb(4 * MAX_PIXELS), "bomb.png.*(bomb|limit)"),
    "half.png": ((FASHION / "bag.png").read_bytes()[:200], "half.png.*(truncated|cannot be read)"),
    "page.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "page.svg"),
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image_is_refused_by_the_sentence_of_the_processor(name, classifier, tmp_path):
    content, sentence = NO_IMAGES[name]
    (tmp_path / name).write_bytes(content)
    client = classifier.client()
    with pytest.raises(AppError, match=sentence) as refused:
        client.predict(handle_file(str(tmp_path / name)), api_name="/classify")
    assert "/tmp/" not in str(refused.value)
    good = client.predict(handle_file(str(FASHION / "bag.png")), api_name="/classify")
    assert good["top"][0]["label"] == "Bag"


@pytest.mark.parametrize("path", ["http://example.com/a.png", "HTTPS://example.com/a.png", "/etc/passwd"])
def test_addresses_and_files_of_the_server_are_refused(path, classifier, monkeypatch):
    fetched = []

    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_get", fetched.append)
    place = urlsplit(classifier.address)
    monkeypatch.setattr("modeling_omni_vision.image_processing_omni_vision._fetch", fetched.append)
    bare = {"url": path, "meta": {"_type": "gradio.FileData"}}
    given = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "a.png"}
    # As a number, too: Gradio moves files whatever the kind of the input.
    for endpoint, data in (("classify", [given]), ("classify", [bare]), ("attention", [None, given, 0])):
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=30)
        body = json.dumps({"data": data})
        connection.request("POST", f"/gradio_api/call/{endpoint}", body, {"Content-Type": "application/json"})
        event = json.loads(connection.getresponse().read())["event_id"]
        connection.request("GET", f"/gradio_api/call/{endpoint}/{event}")
        answer = connection.getresponse().read().decode()
        assert "event: error" in answer
        assert "root:" not in answer
    assert fetched == []


def upload(address, count):
    """Send a file of so many bytes, as a browser does, and return status and text of the answer."""
    place = urlsplit(address)
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=120)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", str(len(head) + count + 9))
    connection.endheaders()
    try:
        connection.send(head)
        for _ in range(count >> 20):
            connection.send(bytes(1 << 20))
        connection.send(b"\r\n--x--\r\n")
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server answered before it had read all
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_a_file_beyond_the_limit_is_refused_in_a_sentence(classifier):
    limit = int(MAX_FILE_SIZE.removesuffix("mb"))
    status, text = upload(classifier.address, (limit + 8) << 20)
    assert (status, "exceeded maximum allowed size" in text) == (413, True)
    assert upload(classifier.address, 1 << 20)[0] == 200


def test_50_parallel_requests_get_their_own_answers(classifier):
    rng = np.random.default_rng(0)
    pictures = [draw_scene(rng, 1, 28).image for _ in range(10)]
    files = [EXAMPLES.folder / f"parallel-{number}.png" for number in range(10)]
    for picture, file in zip(pictures, files, strict=True):
        picture.save(file)
    client = classifier.client()
    alone = [client.predict(handle_file(str(file)), api_name="/classify")["top"] for file in files]
    jobs = [client.submit(handle_file(str(files[number % 10])), api_name="/classify") for number in range(50)]
    assert [job.result()["top"] for job in jobs] == alone * 5
    with ThreadPoolExecutor(10) as pool:
        clients = pool.map(
            lambda file: classifier.client().predict(handle_file(str(file)), api_name="/classify"), files
        )
        assert [one["top"] for one in clients] == alone


@pytest.mark.parametrize("number", range(3))
def test_the_client_examples_of_the_page_about_the_demo_run(number, classifier, search, language, monkeypatch, capsys):
    page = (FASHION.parents[2] / "docs" / "demo.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    served = (classifier, search, language)[number]
    monkeypatch.chdir(FASHION.parents[2])
    monkeypatch.setattr("gradio_client.Client", lambda address: Client(served.address, verbose=False))
    exec(compile(blocks[number], "docs/demo.md", "exec"), {})
    promised = re.findall(r"^print\(.*\)  # (.+)$", blocks[number], re.MULTILINE)
    assert promised
    assert capsys.readouterr().out.splitlines() == promised

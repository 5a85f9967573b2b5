import json

import numpy as np
import pytest
import torch
from packaging.version import Version
from PIL import Image
from transformers import __version__ as transformers_version

from modeling_omni_vision import OmniVisionImageProcessor
from modeling_omni_vision.interpretability.occlusion import OcclusionResult, explain_answer, plot_occlusion


if Version(transformers_version) < Version("5.23"):
    pytest.skip("models of several parts need transformers 5.23", allow_module_level=True)

from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_omni_vision.cli.visualize import main
from modeling_omni_vision.interop import compose_language_model


IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))


@pytest.fixture
def composed(tiny_model, tiny_llama_folder, tmp_path):
    def build(**options):
        vision, folder = tmp_path / "vision", tmp_path / "language"
        tiny_model.save_pretrained(vision)
        OmniVisionImageProcessor(size={"height": 32, "width": 32}).save_pretrained(vision)
        if options.get("fusion") == "late":
            options["cross_attention_interval"] = 1
        compose_language_model(str(vision), str(tiny_llama_folder), folder, **options)
        return AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)

    return build


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"vision_feature_select_strategy": "grid"}, (4, 4)),
        ({"vision_feature_select_strategy": "cls+grid"}, (4, 4)),
        ({"vision_feature_select_strategy": "grid", "scale_factor": 2}, (2, 2)),
        ({"fusion": "late", "vision_feature_select_strategy": "grid"}, (4, 4)),
    ],
)
def test_the_map_is_the_fall_of_the_log_probability_without_a_patch(composed, options, shape):
    model, processor = composed(**options)
    for part in getattr(model, "cross_attention", []):
        torch.nn.init.ones_(part.gate)
    found = explain_answer(model, processor, IMAGE, "what is it", max_new_tokens=2)
    assert found.relevance.shape == shape
    chat = [{"role": "user", "content": [{"type": "image", "image": IMAGE}, {"type": "text", "text": "what is it"}]}]
    inputs = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    leading = int(options["vision_feature_select_strategy"] == "cls+grid")

    @torch.no_grad()
    def probability(hidden):
        encoded = model.get_image_features(inputs["pixel_values"])
        grid = encoded.pooler_output[0].view(-1, model.multi_modal_projector.width)[leading:]
        grid[hidden] = grid.mean(0)
        rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
        return model(**rest, mm_encoder_outputs={"image": encoded}).logits[0, -1].log_softmax(-1)

    said = model.generate(**inputs, max_new_tokens=1, min_new_tokens=1, do_sample=False)[0, -1]
    # Around the first patch: a window that the border cuts.
    corner = [row * shape[1] + column for row in (0, 1) for column in (0, 1)]
    fall = (probability([])[said] - probability(corner)[said]).item()
    # Batches and single rows multiply in another order.
    assert found.relevance[0, 0] == pytest.approx(fall, abs=1e-5)
    assert abs(fall) > 1e-4


def test_with_closed_gates_the_answer_depends_on_no_patch(composed):
    model, processor = composed(fusion="late", vision_feature_select_strategy="grid")
    found = explain_answer(model, processor, IMAGE, "what is it", max_new_tokens=2)
    assert abs(found.relevance).max() < 1e-6  # rounding of a batch


def test_cls_alone_has_no_map_and_the_sheet_says_what_was_wrong(composed, tmp_path):
    model, processor = composed(vision_feature_select_strategy="cls")
    found = explain_answer(model, processor, IMAGE, "what is it", max_new_tokens=2)
    assert found.relevance is None
    results = [
        found,
        OcclusionResult("Is the very red square left or right of the blue circle?", "left", np.eye(4)),
        found,
    ]
    results.append(OcclusionResult("short", "$x", np.zeros((2, 2))))

    def red(truths):
        path = plot_occlusion([np.asarray(IMAGE)] * 4, results, truths, tmp_path / "occlusion.png")
        with Image.open(path) as drawn:
            values = np.asarray(drawn.convert("RGB")).astype(int)
        return int(((values[..., 0] > 150) & (values[..., 1:] < 90).all(-1)).sum())

    # "$x" is no formula: matplotlib would stop at it.
    assert red(["never", "left", "", "$x"]) > red([found.answer, "left", "", "$x"])


def test_the_script_draws_questions_of_a_file(composed, tmp_path, capsys):
    composed(vision_feature_select_strategy="grid")
    talk = [{"role": "user", "content": "is it"}, {"role": "assistant", "content": "what"}]
    lines = [{"image": f"{number % 4}.png", "messages": talk} for number in range(20)]
    for number in range(4):
        IMAGE.rotate(90 * number).save(tmp_path / f"{number}.png")
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = ["--model", str(tmp_path / "language"), "--dataset", str(tmp_path / "mine.jsonl")]
    main([*options, "--split", "train", "--output", str(tmp_path / "maps")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "maps" / "answers.png")
    assert (tmp_path / "maps" / "answers.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="Expected a split of \\['train', 'validation'\\]"):
        main([*options, "--split", "test", "--output", str(tmp_path / "none")])

import pytest
from PIL import Image

from modeling_omni_vision import OmniVisionForImageClassification, OmniVisionImageProcessor, OmniVisionModel
from modeling_omni_vision.cli.program import SOME_UNREADABLE
from modeling_omni_vision.cli.visualize import main


@pytest.mark.parametrize("kind", [OmniVisionModel, OmniVisionForImageClassification])
def test_attention_of_encoders_and_classifiers_is_drawn_over_image_files(kind, tiny_config, tmp_path, capsys):
    kind(tiny_config).save_pretrained(tmp_path / "model")
    OmniVisionImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30), (80 * number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    words = ["--model", str(tmp_path / "model"), "--output", str(tmp_path / "maps")]
    main([*words, "--images", str(tmp_path / "images"), "--count", "2"])
    said = capsys.readouterr()
    assert said.out.strip() == str(tmp_path / "maps" / "attention.png")
    assert "The first 2 of 3 images; --count 3 draws all." in said.err
    two = Image.open(tmp_path / "maps" / "attention.png").height
    main([*words, "--images", str(tmp_path / "images")])
    assert Image.open(tmp_path / "maps" / "attention.png").height > two
    with pytest.raises(ValueError, match="--images"):
        main(words)
    # One that is broken is named; the others are drawn, in a folder with a dot in its name too.
    (tmp_path / "images" / "1.png").write_text("no image")
    words[-1] = str(tmp_path / "maps.2")
    with pytest.raises(ValueError, match=r"1 of 3 images cannot be read: .*1\.png.*--on_error skip"):
        main([*words, "--images", str(tmp_path / "images"), "--on_error", "stop"])
    assert not (tmp_path / "maps.2").exists()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*words, "--images", str(tmp_path / "images")])
    assert stop.value.code == SOME_UNREADABLE
    said = capsys.readouterr()
    assert said.out.strip() == str(tmp_path / "maps.2" / "attention.png")
    assert "1.png: " in said.err
    assert said.err.splitlines()[-1] == "1 of 3 files cannot be read"
    assert Image.open(tmp_path / "maps.2" / "attention.png").height == two
    assert "1.png" in (tmp_path / "maps.2" / "skipped.jsonl").read_text()


def test_a_retrieval_checkpoint_needs_an_image_and_a_text(tmp_path):
    pytest.importorskip("transformers", minversion="5.23")
    words = ["--model", "checkpoints/omni-vision-search-scenes", "--output", str(tmp_path / "maps")]
    for given in ([], ["--image", "a.png"], ["--text", "a ring"]):
        with pytest.raises(ValueError, match="--image and --text"):
            main([*words, *given])
    assert not (tmp_path / "maps").exists()


def test_what_a_vision_language_model_is_not_asked_is_refused(tmp_path):
    pytest.importorskip("transformers", minversion="5.23")
    words = ["--model", "checkpoints/omni-vision-language-scenes", "--output", str(tmp_path / "maps")]
    for given in (["--image", "a.png"], ["--text", "What is it?"], ["--images", "a.png"]):
        with pytest.raises(ValueError, match="questions of --dataset"):
            main([*words, *given])

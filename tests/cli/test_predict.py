import numpy as np
import pytest
import torch
from PIL import Image

from modeling_omni_vision import OmniVisionForImageClassification, OmniVisionImageProcessor
from modeling_omni_vision.cli.predict import predict
from modeling_omni_vision.interop import convert_to_native


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_a_native_twin_predicts_what_ours_does_from_files_of_grey_and_colour_images(
    tiny_config, tmp_path, num_channels, registers
):
    config = type(tiny_config).from_dict(
        {**tiny_config.to_dict(), "pooling": "mean", "num_register_tokens": registers, "num_channels": num_channels}
    )
    model = OmniVisionForImageClassification(config).eval()
    with torch.no_grad():
        # Far from the initialisation the answers depend on the image, so that equal ones mean something.
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.center_residual_().save_pretrained(tmp_path / "ours")
    processor = OmniVisionImageProcessor(size={"height": 32, "width": 32}, num_channels=num_channels)
    processor.save_pretrained(tmp_path / "ours")
    convert_to_native(tmp_path / "ours", tmp_path / "twin")
    draw = np.random.default_rng(0)
    files = [tmp_path / f"{index}.png" for index in range(4)]
    for index, file in enumerate(files):
        Image.fromarray(draw.integers(0, 256, ((40, 30), (30, 50, 3))[index % 2], dtype=np.uint8)).save(file)
    with torch.inference_mode():
        logits = model(**processor(list(map(str, files)), return_tensors="pt")).logits
    best = logits.softmax(-1).max(-1)
    found = predict(str(tmp_path / "twin"), files, batch_size=3)
    assert [label for _, label, _ in found] == [config.id2label[index] for index in best.indices.tolist()]
    assert [probability for _, _, probability in found] == pytest.approx(best.values.tolist(), abs=1e-5)

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, AutoModel

from modeling_omni_vision import OmniVisionConfig
from modeling_omni_vision.cli.convert import main
from modeling_omni_vision.interop import SPECIFICATION_NAMES, convert_from_muomni


class ReferenceViTTiny(nn.Module):
    """mu-Omni's encoder as its documents quote it."""

    def __init__(self, img_size=32, patch=8, d=128, layers=2, heads=2, ff=64, channels=3):
        super().__init__()
        self.proj = nn.Conv2d(channels, d, kernel_size=patch, stride=patch)
        self.cls = nn.Parameter(torch.randn(1, 1, d))
        self.pos = nn.Parameter(torch.randn(1, 1 + (img_size // patch) ** 2, d))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(d, heads, ff, 0.1, activation="gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.RMSNorm(d, eps=1e-5)

    def forward(self, x):
        x = self.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1)
        x = x + self.pos[:, : x.size(1), :]
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x[:, :1], x[:, 1:]


@pytest.fixture
def reference():
    model = ReferenceViTTiny().eval()
    with torch.no_grad():
        # torch starts norms at one and biases at zero, where a swapped pair would not show.
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def saved(state, folder, name="vision.pt"):
    torch.save(state, folder / name)
    return folder / name


def test_a_converted_checkpoint_gives_the_same_tokens_from_auto_model(reference, tmp_path):
    report = convert_from_muomni(saved({"vit": reference.state_dict(), "step": 3}, tmp_path), tmp_path / "ours")
    model = AutoModel.from_pretrained(tmp_path / "ours")
    pixels = torch.rand(4, 3, 32, 32)
    # Gradients on: the fast path of nn.TransformerEncoderLayer rounds differently (measured 9.5e-7 against 1.4e-6).
    cls, grid = reference(pixels)
    output = model(pixels)
    assert (output.cls - cls).abs().max() <= 1e-5
    assert (output.grid - grid).abs().max() <= 1e-5
    assert report.config.num_attention_heads == 2
    assert report.num_parameters == sum(parameter.numel() for parameter in reference.parameters())
    # Foreign weights are not centred, and are not to be: that would change what they compute.
    assert report.residual_mean > 1e-3


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name,
        lambda name: "_orig_mod." + name,
        lambda name: name.replace("self_attn.", "self_attn._orig_mod.").replace("blocks.1.", "blocks.1._orig_mod."),
    ],
    ids=["bare", "compiled", "compiled inside"],
)
def test_bare_and_compiled_state_dicts_give_the_same_weights(reference, tmp_path, rename):
    state = {rename(name): tensor for name, tensor in reference.state_dict().items()}
    convert_from_muomni(saved(state, tmp_path), tmp_path / "ours")
    convert_from_muomni(saved({"vit": reference.state_dict()}, tmp_path, "plain.pt"), tmp_path / "plain")
    one, other = (AutoModel.from_pretrained(tmp_path / name).state_dict() for name in ("ours", "plain"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_images_are_prepared_as_mu_omni_prepares_them(reference, tmp_path):
    convert_from_muomni(saved(reference.state_dict(), tmp_path), tmp_path / "ours")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    processor = AutoImageProcessor.from_pretrained(tmp_path / "ours", backend="pil")
    pixels = processor(image, return_tensors="np")["pixel_values"][0]
    # torchvision's Resize((32, 32)) and ToTensor on a PIL image.
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 255
    assert np.abs(pixels - expected).max() < 1e-6


def test_the_folder_is_complete_and_carries_its_code(reference, tmp_path):
    convert_from_muomni(saved(reference.state_dict(), tmp_path), tmp_path / "ours")
    names = {path.name for path in (tmp_path / "ours").iterdir()}
    assert names >= {"config.json", "model.safetensors", "preprocessor_config.json", "modeling_omni_vision.py"}
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["image_size"] == 32


@pytest.mark.parametrize(("width", "expected"), [(128, 2), (192, 3)])
def test_heads_are_those_of_mu_omnis_two_sizes(tmp_path, width, expected):
    state = ReferenceViTTiny(d=width, heads=expected, layers=1).state_dict()
    assert convert_from_muomni(saved(state, tmp_path), tmp_path / "ours").config.num_attention_heads == expected


def test_heads_of_another_width_must_be_given_and_are_used(tmp_path):
    reference = ReferenceViTTiny(d=64, heads=4).eval()
    file = saved(reference.state_dict(), tmp_path)
    with pytest.raises(ValueError, match="--num_heads"):
        convert_from_muomni(file, tmp_path / "ours")
    main(["--source", "muomni", "--model", str(file), "--output", str(tmp_path / "ours"), "--num_heads", "4"])
    pixels = torch.rand(2, 3, 32, 32)
    model = AutoModel.from_pretrained(tmp_path / "ours")
    assert (model(pixels).cls - reference(pixels)[0]).abs().max() <= 1e-5


@pytest.mark.parametrize("heads", [0, 3])
def test_an_impossible_number_of_heads_is_refused(reference, tmp_path, heads):
    with pytest.raises(ValueError, match="num_attention_heads"):
        convert_from_muomni(saved(reference.state_dict(), tmp_path), tmp_path / "ours", num_heads=heads)


def test_the_specifications_file_gives_the_heads_and_must_agree_with_the_shapes(tmp_path):
    file = saved(ReferenceViTTiny(d=64, heads=4).state_dict(), tmp_path)
    spec = {"img_size": 32, "patch": 8, "d_model": 64, "n_layers": 2, "n_heads": 4, "d_ff": 64, "lr": 0.1}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    assert (
        convert_from_muomni(file, tmp_path / "a", spec_config=tmp_path / "spec.json").config.num_attention_heads == 4
    )
    (tmp_path / "spec.json").write_text(json.dumps(spec | {"d_ff": 512}))
    with pytest.raises(ValueError, match=r"intermediate_size.*512, 64"):
        convert_from_muomni(file, tmp_path / "b", spec_config=tmp_path / "spec.json")
    (tmp_path / "spec.json").write_text("[1]")
    with pytest.raises(ValueError, match="JSON file"):
        convert_from_muomni(file, tmp_path / "b", spec_config=tmp_path / "spec.json")
    assert not (tmp_path / "b").exists()


def test_specification_names_map_to_fields_of_our_configuration():
    assert set(SPECIFICATION_NAMES) == {"img_size", "patch", "d_model", "n_layers", "n_heads", "d_ff"}
    assert all(hasattr(OmniVisionConfig(), name) for name in SPECIFICATION_NAMES.values())


def test_unknown_missing_and_ill_shaped_keys_are_all_named_in_one_error(reference, tmp_path):
    state = reference.state_dict()
    del state["blocks.1.norm2.bias"], state["norm.weight"]
    state["head.weight"] = torch.zeros(2, 128)
    state["blocks.0.linear1.bias"] = torch.zeros(63)
    with pytest.raises(ValueError, match=r"with 2 blocks") as refused:
        convert_from_muomni(saved(state, tmp_path), tmp_path / "ours")
    message = str(refused.value)
    for part in (
        "missing blocks.1.norm2.bias",
        "missing norm.weight",
        "unknown head.weight",
        "blocks.0.linear1.bias of shape (63,) instead of (64,)",
    ):
        assert part in message
    assert message.count(";") == 3, "anything more would be a false accusation"
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("name", ["proj.weight", "blocks.0.linear1.weight", "pos", "cls"])
def test_a_missing_key_that_sizes_are_read_from_is_the_only_one_named(reference, tmp_path, name):
    state = reference.state_dict()
    del state[name]
    with pytest.raises(ValueError, match=f"got: missing {name}\\."):
        convert_from_muomni(saved(state, tmp_path), tmp_path / "ours")


@pytest.mark.parametrize(
    ("name", "shape"),
    [("pos", (1, 18, 128)), ("pos", (17, 128)), ("proj.weight", (128, 192)), ("proj.weight", (128, 3, 8, 4))],
    ids=str,
)
def test_shapes_of_another_geometry_are_named(reference, tmp_path, name, shape):
    state = reference.state_dict()
    state[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=name.replace(".", r"\.") + " of shape"):
        convert_from_muomni(saved(state, tmp_path), tmp_path / "ours")


def test_a_gap_or_a_huge_number_of_blocks_is_named_not_built(reference, tmp_path):
    state = {name.replace("blocks.1.", "blocks.999999999."): tensor for name, tensor in reference.state_dict().items()}
    with pytest.raises(ValueError, match=r"missing blocks\.1\.norm1\.weight.*unknown blocks\.999999999\."):
        convert_from_muomni(saved(state, tmp_path), tmp_path / "ours")


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {},
        {"vit": {}},
        {"vit": {"proj.weight": "text"}},
        {"vit": None, "optimizer": {}},
        {"cls": torch.zeros(1, dtype=torch.long)},
        {"cls": torch.zeros(1), "_orig_mod.cls": torch.zeros(1)},
    ],
    ids=str,
)
def test_a_file_that_holds_no_state_dict_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match="state dict"):
        convert_from_muomni(saved(content, tmp_path), tmp_path / "ours")


def test_truncated_missing_and_foreign_files_are_refused_by_name(reference, tmp_path):
    file = saved(reference.state_dict(), tmp_path)
    file.write_bytes(file.read_bytes()[:1000])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    for name in ("vision.pt", "empty.pt", "text.pt", "nowhere.pt"):
        with pytest.raises(ValueError, match=name):
            convert_from_muomni(tmp_path / name, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


class Malicious:
    def __reduce__(self):
        return print, ("code of the checkpoint ran",)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"vit": Malicious()}, tmp_path / "vision.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Malicious()))
    said = {"vision.pt": r"a pickle with more than tensors \(.*print\)", "raw.pt": "that torch did not write"}
    for name, sentence in said.items():
        with pytest.raises(ValueError, match=f"{name}.*{sentence}"):
            convert_from_muomni(tmp_path / name, tmp_path / "ours")
    assert "ran" not in capsys.readouterr().out


def test_half_precision_weights_stay_half_precision(tmp_path):
    state = ReferenceViTTiny().to(torch.bfloat16).state_dict()
    convert_from_muomni(saved(state, tmp_path), tmp_path / "ours")
    model = AutoModel.from_pretrained(tmp_path / "ours")
    assert model.dtype == torch.bfloat16
    assert torch.equal(model.state_dict()["embeddings.cls_token"], state["cls"])

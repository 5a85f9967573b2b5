import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, LlamaConfig

from modeling_omni_vision import OmniVisionForImageClassification, OmniVisionModel
from modeling_omni_vision.cli.model_kind import check_kind
from modeling_omni_vision.interop import load_vision_tower
from modeling_omni_vision.interop.vision_tower import PREFIXES


KINDS = ["encoder", "classifier", "retrieval", "language", "vae"]


def _retrieval(config):
    pytest.importorskip("transformers", minversion="5.23", reason="retrieval models need transformers 5.23")
    from modeling_omni_vision.configuration_omni_vision_retrieval import OmniVisionRetrievalConfig
    from modeling_omni_vision.modeling_omni_vision_retrieval import OmniVisionForRetrieval

    text = BertConfig(
        vocab_size=9, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    ).to_dict()
    return OmniVisionForRetrieval(OmniVisionRetrievalConfig(vision_config=config.to_dict(), text_config=text))


def _language(config):
    pytest.importorskip("transformers", minversion="5.23", reason="vision-language models need transformers 5.23")
    from modeling_omni_vision.configuration_omni_vision_language import OmniVisionLanguageConfig
    from modeling_omni_vision.modeling_omni_vision_language import OmniVisionForConditionalGeneration

    text = LlamaConfig(vocab_size=9, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    composite = OmniVisionLanguageConfig(vision_config=config, text_config=text, image_token_index=8)
    return OmniVisionForConditionalGeneration(composite)


def _vae(config):
    pytest.importorskip("transformers", minversion="5.23", reason="autoencoders need transformers 5.23")
    from modeling_omni_vision.configuration_omni_vision_vae import OmniVisionVAEConfig
    from modeling_omni_vision.modeling_omni_vision_vae import OmniVisionVAE

    return OmniVisionVAE(
        OmniVisionVAEConfig(vision_config=config.to_dict(), decoder_config={"num_hidden_layers": 1}, latent_size=4)
    )


MAKERS = {
    "encoder": OmniVisionModel,
    "classifier": OmniVisionForImageClassification,
    "retrieval": _retrieval,
    "language": _language,
    "vae": _vae,
}
TOWERS = {"classifier": "omni_vision", "retrieval": "vision_model", "language": "vision_tower", "vae": "vision_model"}


@pytest.fixture
def saved(tiny_config, tiny_model, tmp_path):
    """A function that saves a checkpoint of a kind around the weights of `tiny_model`, in a precision."""

    def save(kind, dtype=torch.float32):
        model = MAKERS[kind](tiny_config)
        tower = getattr(model, TOWERS[kind]) if kind in TOWERS else model
        tower.load_state_dict(tiny_model.state_dict())
        model.to(dtype).save_pretrained(tmp_path / kind)
        return tmp_path / kind

    return save


@pytest.mark.parametrize("kind", KINDS)
def test_a_tower_is_saved_under_the_names_of_an_encoder(saved, tiny_model, tmp_path, kind):
    load_vision_tower(saved(kind)).save_pretrained(tmp_path / "tower")
    assert load_file(tmp_path / "tower" / "model.safetensors").keys() == tiny_model.state_dict().keys()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_checkpoint_gives_the_same_tower_to_the_bit(saved, tiny_model, tiny_config, kind):
    tower = load_vision_tower(saved(kind))
    assert type(tower) is OmniVisionModel
    assert not tower.training
    assert tower.state_dict().keys() == tiny_model.state_dict().keys()
    for name, weight in tiny_model.state_dict().items():
        assert torch.equal(tower.state_dict()[name], weight), name
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(tower(pixels).last_hidden_state, tiny_model(pixels).last_hidden_state)


@pytest.mark.parametrize("kind", KINDS)
def test_the_precision_is_that_of_the_file_unless_another_is_asked_for(saved, kind):
    folder = saved(kind, torch.bfloat16)
    assert load_vision_tower(folder).dtype == torch.bfloat16
    assert load_vision_tower(folder, "float32").dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_of_the_configuration_can_be_replaced_but_not_the_shape_of_weights(saved, kind):
    folder = saved(kind)
    tower = load_vision_tower(folder, pooling="cls_mean", image_size=[32, 32], attn_implementation="eager")
    assert (tower.config.pooling, tower.config._attn_implementation) == ("cls_mean", "eager")
    with pytest.raises(ValueError, match="are made for patch_size 8, num_attention_heads 2, got 16, 4"):
        load_vision_tower(folder, patch_size=16, num_attention_heads=4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_is_missing_is_an_error_and_never_a_random_tower(saved, kind):
    file = saved(kind) / "model.safetensors"
    weights = load_file(file)
    (name,) = (name for name in weights if name.endswith("layers.1.mlp.fc1.weight"))
    save_file({key: weight for key, weight in weights.items() if key != name}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"all weights of OmniVisionModel.*layers\.1\.mlp\.fc1\.weight"):
        load_vision_tower(file.parent)


def test_weights_of_another_shape_are_an_error_that_names_them(saved):
    file = saved("encoder") / "model.safetensors"
    weights = load_file(file)
    weights["norm.weight"] = torch.ones(16)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"mismatched_keys.*norm\.weight"):
        load_vision_tower(file.parent)


def test_another_kind_of_model_and_a_folder_that_is_none_are_refused_by_a_sentence(tmp_path):
    BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match=r"one of these model types: vit, .*got 'bert'"):
        load_vision_tower(tmp_path / "bert")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"got neither\. Name the folder of a checkpoint"):
        load_vision_tower(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"Expected the folder, file or Hub name of a checkpoint, got .*absent"):
        load_vision_tower(tmp_path / "absent")


def test_the_prefixes_are_those_of_the_models(tiny_config):
    for kind in KINDS:
        model = MAKERS[kind](tiny_config)
        prefix = PREFIXES[model.config.model_type]
        tower = model if not prefix else model.get_submodule(prefix.removesuffix("."))
        assert isinstance(tower, OmniVisionModel | OmniVisionForImageClassification)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            ["checkpoint-9/config.json", "checkpoint-500/config.json", "checkpoint-old/config.json"],
            "checkpoint-500' in it",
        ),
        (["adapter_config.json"], "holds an adapter of PEFT: save the model that `merge_and_unload"),
        (["notes.txt"], "Name the folder of a checkpoint"),
    ],
)
def test_a_folder_without_a_model_says_what_to_name_instead(tmp_path, made, said):
    for name in made:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=said):
        load_vision_tower(tmp_path)
    with pytest.raises(ValueError, match=said):
        check_kind(str(tmp_path), "classifier")

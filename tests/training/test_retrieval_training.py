import itertools
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from datasets import Dataset, DatasetDict
from packaging.version import Version
from transformers import __version__ as transformers_version


pytest.importorskip("sentence_transformers")
pytest.importorskip("peft")
if Version(transformers_version) < Version("5.23"):
    pytest.skip("models of several parts need transformers 5.23", allow_module_level=True)

from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator, SequentialEvaluator

from modeling_omni_vision import (
    OmniVisionForRetrieval,
    OmniVisionImageProcessor,
    OmniVisionModel,
    OmniVisionRetrievalConfig,
)
from modeling_omni_vision.data import pairs
from modeling_omni_vision.data.synthetic.scenes import draw_scenes
from modeling_omni_vision.retrieval.augmentation import PairAugmentation
from modeling_omni_vision.retrieval.build import as_sentence_transformer, build_retrieval
from modeling_omni_vision.retrieval.losses import false_negative_mask, unwrap_retrieval_model
from modeling_omni_vision.training.lora import merge_lora
from modeling_omni_vision.training.retrieval import (
    LateInteractionTrainer,
    SingleVectorTrainer,
    caches_texts,
    chance_loss,
    freeze_parameters,
    train_retrieval,
    trainer_of,
)
from modeling_omni_vision.training.retrieval_arguments import RetrievalArguments, RetrievalTrainingArguments
from modeling_omni_vision.training.retrieval_data import ConceptBatches, training_pairs


TINY = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}

STEADY = {**TINY, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture
def few_scenes(monkeypatch):
    sizes = {"train": 24, "validation": 8, "test": 8}
    monkeypatch.setattr(pairs, "draw_scenes", lambda objects: draw_scenes(objects, size=32, sizes=sizes))


def arguments(folder, **changes):
    options = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "disable_tqdm": True, "seed": 3}
    return RetrievalTrainingArguments(output_dir=str(folder), **options | changes)


def recipe(**changes):
    options = {"dataset": "scenes", "train": "all", "embedding_dim": 16}
    if changes.get("model") in (None, "somewhere"):
        options |= {"text": "new", "config": json.dumps(TINY)}
    return RetrievalArguments(**options | changes)


def weights(folder):
    return OmniVisionForRetrieval.from_pretrained(folder).state_dict()


@pytest.mark.parametrize("length", [{"max_steps": 4}, {"num_train_epochs": 1}])
def test_fewer_pairs_than_a_batch_are_no_training_that_succeeds(few_scenes, tmp_path, length):
    with pytest.raises(ValueError, match=r"at least one step of training, got none.*batch of 100"):
        train_retrieval(recipe(), arguments(tmp_path / "run", per_device_train_batch_size=100, **length))
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize("vectors", ["both", "multi_vector", "single_vector"])
def test_a_run_leaves_a_folder_that_sentence_transformers_loads_and_its_numbers(few_scenes, tmp_path, vectors):
    folder = train_retrieval(recipe(vectors=vectors), arguments(tmp_path / "run"))
    record = json.loads((folder / "metrics.json").read_text())
    assert record["training"]["steps"] == 6
    assert record["training"]["pairs"] == {"train": 24, "validation": 8, "test": 8}
    assert len(record["training"]["evaluations"]) == 2
    assert all(entry["chance_loss"] == pytest.approx(math.log(8)) for entry in record["training"]["history"])
    assert set(record["retrieval"]) == ({"multi_vector", "single_vector"} if vectors == "both" else {vectors})
    for splits in record["retrieval"].values():
        assert list(splits) == ["validation", "test"]
        for found in (found for directions in splits.values() for found in directions.values()):
            assert found["candidates"] == 8
            assert found["recall@1"] <= found["recall@5"] <= found["recall@10"] == 1
    code = {path.name for path in folder.glob("*.py")}
    assert {"modeling_omni_vision_retrieval.py", "modeling_omni_vision.py"} <= code
    for kind in (MultiVectorEncoder, SentenceTransformer):
        assert len(kind(str(folder), trust_remote_code=True, device="cpu").encode("a red circle"))


def test_training_lowers_the_loss_below_chance(few_scenes, tmp_path):
    folder = train_retrieval(
        recipe(muon_learning_rate=0.02), arguments(tmp_path / "run", num_train_epochs=12, learning_rate=3e-3)
    )
    history = json.loads((folder / "metrics.json").read_text())["training"]["history"]
    assert history[-1]["loss"] < 0.8 * history[-1]["chance_loss"]


def test_a_new_text_encoder_has_the_width_that_is_asked_for():
    for text, width in (("new", 64), ("new:96", 96)):
        model, _ = build_retrieval(recipe().vision_config(), text, ["a red circle"], 16)
        assert model.config.text_config.hidden_size == width
    for text in ("new:7", "new:0", "new:wide"):
        with pytest.raises(ValueError, match="multiple of 32"):
            build_retrieval(recipe().vision_config(), text, ["a red circle"], 16)


@pytest.mark.parametrize("train", ["image", "text", "heads"])
def test_frozen_parts_stay_bit_for_bit_and_trained_ones_move(few_scenes, tmp_path, train):
    start = train_retrieval(recipe(), arguments(tmp_path / "start", do_predict=False))
    folder = train_retrieval(
        recipe(model=str(start), config=None, text=None, train=train), arguments(tmp_path / "run", do_predict=False)
    )
    before, after = weights(start), weights(folder)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"visual_projection.weight", "text_projection.weight"} <= moved
    assert any(name.startswith("vision_model.") for name in moved) == (train == "image")
    assert any(name.startswith("text_model.") for name in moved) == (train == "text")


def test_towers_that_are_not_trained_are_used_without_dropout(few_scenes, tmp_path):
    start = train_retrieval(recipe(), arguments(tmp_path / "start", do_predict=False))
    losses = []
    for share in (0.0, 0.5):
        config = json.loads((start / "config.json").read_text())
        config["text_config"]["hidden_dropout_prob"] = config["vision_config"]["hidden_dropout_prob"] = share
        (start / "config.json").write_text(json.dumps(config))
        folder = train_retrieval(
            recipe(model=str(start), config=None, text=None, train="heads"),
            arguments(tmp_path / f"run{share}", do_predict=False, max_steps=1, logging_steps=1),
        )
        losses.append(json.loads((folder / "metrics.json").read_text())["training"]["history"][0]["loss"])
    assert losses[0] == losses[1]


def test_lora_trains_queries_and_values_of_the_vision_tower_and_is_merged(few_scenes, tmp_path):
    start = train_retrieval(recipe(), arguments(tmp_path / "start", do_predict=False))
    folder = train_retrieval(
        recipe(model=str(start), config=None, text=None, train="image", lora_rank=2),
        arguments(tmp_path / "run", do_predict=False, learning_rate=1e-2),
    )
    before, after = weights(start), weights(folder)
    assert set(before) == set(after)
    moved = {name for name in before if not torch.equal(before[name], after[name])} - {"logit_scale"}
    heads = {"visual_projection.weight", "text_projection.weight"}
    assert heads < moved
    assert all(name.endswith(("q_proj.weight", "v_proj.weight")) for name in moved - heads)
    assert len(moved - heads) == 4
    changes = [after[name] - before[name] for name in moved - heads]
    assert max(int(torch.linalg.matrix_rank(change, atol=1e-5)) for change in changes) == 2


class BestFirst(BaseEvaluator):
    """An evaluator that likes the first weights best, and keeps them all."""

    def __init__(self):
        super().__init__()
        self.primary_metric, self.seen = "score", []

    def __call__(self, model, *args, **kwargs):
        core = unwrap_retrieval_model(model)
        self.seen.append({name: value.clone() for name, value in core.state_dict().items()})
        return {"score": 1.0 / len(self.seen)}


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_the_best_weights_are_published_and_not_the_last_with_lora_too(few_scenes, tmp_path, monkeypatch, lora_rank):
    evaluator = BestFirst()
    both = SequentialEvaluator([evaluator], main_score_function=lambda scores: scores[0])
    monkeypatch.setattr("modeling_omni_vision.training.retrieval._evaluator", lambda *args: both)
    options = {"do_predict": False, "num_train_epochs": 3, "learning_rate": 1e-2, "load_best_model_at_end": True}
    options |= {"eval_strategy": "epoch", "save_strategy": "epoch"}
    folder = train_retrieval(recipe(train="image", lora_rank=lora_rank), arguments(tmp_path / "run", **options))
    heads = [one["text_projection.weight"] for one in evaluator.seen]
    assert len(heads) == 3
    assert not torch.equal(heads[0], heads[2])
    assert torch.equal(weights(folder)["text_projection.weight"], heads[0])
    value = "vision_model.layers.0.attention.q_proj"
    if lora_rank:
        first = evaluator.seen[0]
        change = first[f"{value}.lora_B.default.weight"] @ first[f"{value}.lora_A.default.weight"] * 2
        wanted = first[f"{value}.base_layer.weight"] + change
        assert torch.allclose(weights(folder)[f"{value}.weight"], wanted, atol=1e-6)


def test_peft_is_asked_for_its_version_where_lora_was_trained_alone(few_scenes, tmp_path):
    # It need not be installed elsewhere, and the record is written after the training.
    for lora_rank in (0, 2):
        options = arguments(tmp_path / str(lora_rank), do_predict=False, max_steps=1)
        folder = train_retrieval(recipe(train="image", lora_rank=lora_rank), options)
        assert ("peft" in json.loads((folder / "metrics.json").read_text())["training"]["versions"]) == bool(lora_rank)


def test_texts_are_encoded_by_themselves_where_they_are_read_often_by_a_frozen_encoder_alone(tmp_path, monkeypatch):
    train = Dataset.from_dict({"texts": [["a red circle", "a circle"], ["a red circle"]] * 4})
    often, seldom = {"num_train_epochs": 1}, {"max_steps": 1, "per_device_train_batch_size": 4}
    single = {"vectors": "single_vector", "train": "image"}

    def asked(length, **changes):
        return caches_texts(recipe(**single | changes), arguments(tmp_path, **length), train)

    assert [asked(length) for length in (often, seldom)] == [True, False]
    assert asked(often, train="heads")
    assert not any((asked(often, train="all"), asked(often, train="text"), asked(often, vectors="both")))
    monkeypatch.setattr("modeling_omni_vision.training.retrieval.MAX_CACHED_TEXTS", 1)
    assert not asked(often)


def test_merging_lora_changes_no_answer():
    torch.manual_seed(0)
    model, _ = build_retrieval(recipe().vision_config(), "new", ["a red circle"], 16)
    freeze_parameters(model, "image", lora_rank=2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    pixels = torch.randn(2, 3, 32, 32)
    wanted = model.eval()(pixel_values=pixels).embeddings
    merge_lora(model)
    found = model.eval()(pixel_values=pixels).embeddings
    assert (found - wanted).abs().max() < 1e-5
    plain = OmniVisionForRetrieval(model.config).eval()(pixel_values=pixels).embeddings
    assert (found - plain).abs().max() > 1e-2


def test_muon_leaves_the_text_encoder_to_adamw_whatever_its_layers_are_called(tmp_path):
    data = draw_scenes((1, 1), size=32, sizes={"train": 4, "validation": 4})
    text = {"model_type": "modernbert", "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2}
    text |= {
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    text |= {"cls_token_id": 1, "sep_token_id": 2}
    model, processor = build_retrieval(recipe().vision_config(), "new", ["a red circle"], 16)
    model = OmniVisionForRetrieval(OmniVisionRetrievalConfig(**model.config.to_dict() | {"text_config": text}))
    assert any(name.startswith("text_model.layers.") for name, _ in model.named_parameters())
    opened = as_sentence_transformer(model, processor, late_interaction=True)
    trainer = trainer_of(opened, recipe(muon_learning_rate=0.02), arguments(tmp_path), data)
    groups = trainer.create_optimizer().param_groups
    stepped = {id(weight) for group in groups if group["muon"] for weight in group["params"]}
    names = [name for name, weight in trainer.core.named_parameters() if id(weight) in stepped]
    assert names
    assert all(name.startswith("vision_model.layers.") for name in names)


def test_the_temperature_stays_within_its_limit(few_scenes, tmp_path):
    start = train_retrieval(recipe(), arguments(tmp_path / "start", do_predict=False, num_train_epochs=1))
    state = load_file(start / "model.safetensors")
    state["logit_scale"] = torch.tensor(9.0)
    save_file(state, start / "model.safetensors", metadata={"format": "pt"})
    folder = train_retrieval(
        recipe(model=str(start), config=None, text=None),
        arguments(tmp_path / "run", do_predict=False, num_train_epochs=1),
    )
    # Cut off after each step; the steps are small.
    assert 99 < weights(folder)["logit_scale"].exp() < 100.01


def test_any_text_of_an_image_is_trained_with_or_the_first():
    train = draw_scenes((2, 2), size=32, sizes={"train": 40})["train"]
    change = PairAugmentation(False, 3)
    seen = {sampling: training_pairs(train, change, sampling)[:]["text"] for sampling in ("any", "first")}
    assert seen["first"] == [lines[0] for lines in train["texts"]]
    places = [lines.index(text) for lines, text in zip(train["texts"], seen["any"], strict=True)]
    assert set(places) == {0, 1, 2}
    # Chosen anew in each epoch, and in each the same in whatever order.
    rows = training_pairs(train, change)
    assert rows[[5, 1]]["text"] == [seen["any"][5], seen["any"][1]]
    change.set_epoch(1)
    assert rows[:]["text"] != seen["any"]


def test_each_epoch_of_a_run_chooses_texts_anew(few_scenes, tmp_path, monkeypatch):
    seen = {}

    def watch(self, *args, **kwargs):
        for concept, text, *_ in args[1]["label"].tolist():
            seen.setdefault(concept, []).append(text)
        return step(self, *args, **kwargs)

    step = LateInteractionTrainer.training_step
    monkeypatch.setattr(LateInteractionTrainer, "training_step", watch)
    train_retrieval(recipe(dataset="scenes:2"), arguments(tmp_path / "run", do_predict=False, num_train_epochs=3))
    assert {len(texts) for texts in seen.values()} == {3}
    # Of 24 images with three texts each, all three are others for a share of 2/9, and all the same for 1/9.
    assert sum(len(set(texts)) > 1 for texts in seen.values()) > 12


@pytest.mark.parametrize("text_sampling", ["any", "first"])
def test_labels_find_the_images_that_a_text_describes(text_sampling):
    train = draw_scenes((1, 2), size=32, sizes={"train": 300})["train"]
    rows = training_pairs(train, PairAugmentation(False, 3), text_sampling)[:]
    labels = torch.tensor(rows["label"])
    _, fits, fits_back = false_negative_mask(labels, labels, torch.arange(300))
    named = [set(concept.split(", ")) for concept in train["concept"]]
    said = [{name for name in names if name in text} for names, text in zip(named, rows["text"], strict=True)]
    # Two objects of the same colour, say, are two names of which a text may hold one.
    assert {len(names) for names in said} == {1, 2}
    others = ~torch.eye(300, dtype=torch.bool)
    wanted = torch.tensor([[text <= image for image in named] for text in said]) & others
    assert wanted.sum() > 100
    assert torch.equal(fits, wanted)
    assert torch.equal(fits_back, wanted.T)


def test_a_text_has_the_same_number_in_every_process():
    # Otherwise pairs of one process would be wrong answers to the same ones of another: `hash` is seeded in each.
    train = draw_scenes((1, 1), size=32, sizes={"train": 1})["train"]
    label = training_pairs(train, PairAugmentation(False))[0]["label"]
    assert label == [-6768201055279355585, 5099367260536176087]


def rows_of(texts):
    columns = {"image": [None] * len(texts), "texts": texts, "concept": [str(number) for number in range(len(texts))]}
    return Dataset.from_dict(columns)


def labels_of(texts, monkeypatch, chosen=0):
    monkeypatch.setattr("modeling_omni_vision.training.retrieval_data.open_stored", lambda source: source)
    change = PairAugmentation(False)
    monkeypatch.setattr(change, "text", lambda lines, row: lines[chosen % len(lines)])
    monkeypatch.setattr(change, "image", lambda image, row: 0)
    return torch.tensor(training_pairs(rows_of(texts), change)[:]["label"])


def test_an_image_with_many_texts_widens_no_label_unless_others_share_them(monkeypatch, caplog):
    many = [[f"text {number}" for number in range(500)], ["other"], ["text 3", "more"], ["same"], ["same", "else"]]
    labels = labels_of(many, monkeypatch, chosen=0)
    assert labels.shape == (5, 3)
    _, fits, fits_back = false_negative_mask(labels, labels, torch.arange(5))
    assert fits.nonzero().tolist() == [[2, 0], [3, 4], [4, 3]]
    assert torch.equal(fits, fits_back.T)
    assert labels_of([many[0]] * 3, monkeypatch).shape == (3, 2 + 64)
    assert "An image shares 500 of its texts" in caplog.text


def batches(concepts, size, drop_last=True, epoch=0):
    sampler = ConceptBatches(
        Dataset.from_dict({"concept": concepts}), size, drop_last, generator=torch.Generator(), seed=3
    )
    sampler.set_epoch(epoch)
    return list(sampler), len(sampler)


def test_images_of_a_concept_come_in_one_batch_each_once_in_an_epoch_and_in_another_order_each_time():
    concepts = [*"abcdefgh", *"hgfedcba"]
    first, length = batches(concepts, 4)
    assert length == len(first) == 4
    assert sorted(row for batch in first for row in batch) == list(range(16))
    for batch in first:
        assert len({concepts[row] for row in batch}) == 2
    assert first == batches(concepts, 4)[0] != batches(concepts, 4, epoch=1)[0]


def test_of_many_images_of_a_concept_two_come_together_and_not_always_the_same_two():
    concepts = [*"abcdefgh"] * 4
    pairs = []
    for epoch in (0, 1):
        found, _ = batches(concepts, 8, epoch=epoch)
        assert sorted(row for batch in found for row in batch) == list(range(32))
        rows = [row for batch in found for row in batch]
        pairs.append({frozenset(rows[start : start + 2]) for start in range(0, 32, 2)})
        assert all(len({concepts[row] for row in pair}) == 1 for pair in pairs[-1])
        # All four of a concept at once would make these two.
        assert max(len({concepts[row] for row in batch}) for batch in found) > 2
    assert pairs[0] != pairs[1]


def test_the_rest_of_an_epoch_is_a_smaller_batch_or_left_out():
    for drop_last, sizes in ((True, [4]), (False, [4, 3])):
        found, length = batches([*"aabbccd"], 4, drop_last)
        assert [len(batch) for batch in found] == sizes
        assert length == len(sizes)


def test_images_of_a_concept_are_trained_as_positives_of_each_other(few_scenes, tmp_path, monkeypatch):
    seen = []

    def watch(self, *args, **kwargs):
        seen.append(args[1]["label"][:, 0].tolist())
        return step(self, *args, **kwargs)

    step = LateInteractionTrainer.training_step
    monkeypatch.setattr(LateInteractionTrainer, "training_step", watch)
    many = arguments(tmp_path / "run", num_train_epochs=1, do_predict=False, logging_steps=1)
    scenes = recipe(dataset="scenes:1", image_pair_weight=2.0)
    record = json.loads((train_retrieval(scenes, many) / "metrics.json").read_text())["training"]
    assert record["recipe"]["image_pair_weight"] == 2
    assert record["history"][0]["loss"] > record["history"][0]["chance_loss"] + 1
    for labels in seen:
        # Together: no concept comes again after another one.
        assert len(list(itertools.groupby(labels))) == len(set(labels))


def test_the_weight_of_the_single_vector_loss_counts_where_both_are_trained(few_scenes, tmp_path):
    losses = {}
    for name, weight in (("multi_vector", 1.0), ("single_vector", 1.0), ("both", 1.0), ("both", 0.25)):
        run = arguments(tmp_path / f"{name}{weight}", max_steps=1, do_predict=False, logging_steps=1)
        folder = train_retrieval(recipe(vectors=name, single_vector_weight=weight, config=json.dumps(STEADY)), run)
        history = json.loads((folder / "metrics.json").read_text())["training"]["history"]
        losses[name, weight] = history[0]["loss"]
    multi, single = losses["multi_vector", 1.0], losses["single_vector", 1.0]
    assert losses["both", 1.0] == pytest.approx((multi + single) / 2, abs=1e-4)
    assert losses["both", 0.25] == pytest.approx((multi + single / 4) / 1.25, abs=1e-4)
    assert abs(multi - single) > 0.01


def test_a_weight_for_pairs_of_images_is_refused_where_no_concept_has_two(tmp_path):
    data = DatasetDict({"train": Dataset.from_dict({"concept": ["a", "b"]})})
    with pytest.raises(ValueError, match="concepts with several images"):
        trainer_of(None, recipe(image_pair_weight=0.5), arguments(tmp_path), data)


def test_a_tower_can_be_taken_with_another_pooling_and_other_attention_but_not_with_another_shape(tmp_path):
    torch.manual_seed(0)
    tower = OmniVisionModel(recipe().vision_config())
    tower.save_pretrained(tmp_path)
    OmniVisionImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    fields = {"pooling": "mean", "patch_drop_rate": 0.5, "attn_implementation": "eager"}
    model, processor = build_retrieval(str(tmp_path), "new", ["a red circle"], 16, fields=fields)
    opened = unwrap_retrieval_model(as_sentence_transformer(model, processor, late_interaction=False))
    for core in (model, opened):
        config = core.vision_model.config
        assert (config.pooling, config.patch_drop_rate, config._attn_implementation) == ("mean", 0.5, "eager")
        assert config.image_size == 32
        for name, value in tower.state_dict().items():
            assert torch.equal(core.vision_model.state_dict()[name], value), name
    with pytest.raises(ValueError, match="are made for patch_size 8, got 16"):
        build_retrieval(str(tmp_path), "new", ["a red circle"], 16, fields={"patch_size": 16, "pooling": "mean"})


def test_attention_is_computed_as_the_configuration_asks(few_scenes, tmp_path, monkeypatch):
    used = []

    def watch(self, *args, **kwargs):
        used.append(unwrap_retrieval_model(self.model).vision_model.config._attn_implementation)
        return step(self, *args, **kwargs)

    step = SingleVectorTrainer.training_step
    monkeypatch.setattr(SingleVectorTrainer, "training_step", watch)
    eager = recipe(vectors="single_vector", config=json.dumps({**TINY, "attn_implementation": "eager"}))
    train_retrieval(eager, arguments(tmp_path / "run", max_steps=1, do_predict=False))
    assert used == ["eager"]


def test_chance_is_the_loss_of_equal_scores():
    same = torch.zeros(6, 6)
    assert chance_loss(6) == pytest.approx(torch.nn.functional.cross_entropy(same, torch.arange(6)).item())
    # SigLIP: the best constant logit for one true pair in six.
    logit = math.log((1 / 6) / (5 / 6))
    sign = 2 * torch.eye(6) - 1
    wanted = -torch.nn.functional.logsigmoid(sign * logit).sum() / 6
    assert chance_loss(6, sigmoid=True) == pytest.approx(wanted.item(), rel=1e-5)


def test_a_finished_run_is_not_written_over(few_scenes, tmp_path):
    train_retrieval(recipe(), arguments(tmp_path / "run", do_predict=False, num_train_epochs=1))
    with pytest.raises(ValueError, match="finished run"):
        train_retrieval(recipe(), arguments(tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": "everything"}, "must be one of all, image, text, heads"),
        ({"vectors": "some"}, "must be one of both, multi_vector, single_vector"),
        ({"single_vector_weight": 0.0}, "`single_vector_weight` must be above 0"),
        ({"single_vector_weight": 0.5, "vectors": "multi_vector"}, "is for `vectors` both, got 0.5"),
        ({"text_sampling": "all"}, "must be one of any, first"),
        ({"lora_rank": 4, "train": "text"}, "needs the vision tower"),
        ({"model": "somewhere"}, "`model` has both towers"),
        ({"config": "{"}, "must be JSON"),
        ({"config": '{"hidden": 3}'}, "fields of OmniVisionConfig"),
        ({"mini_batch_size": -1}, "`mini_batch_size` must be at least 0"),
        ({"image_pair_weight": -1.0}, "`image_pair_weight` must be at least 0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        recipe(**changes)


def test_a_batch_of_one_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="at least 2, got 1"):
        arguments(tmp_path, per_device_train_batch_size=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    ["", "--vectors multi_vector", "--vectors single_vector", "--mini_batch_size 2", "--contrastive_loss sigmoid"],
)
def test_two_processes_train_as_the_script_says(tmp_path, more):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = ["scripts/train_retrieval.py", "--dataset", "scenes:1", "--text", "new", "--train", "all"]
    options = ["--config", json.dumps(TINY), "--max_steps", "2", "--per_device_train_batch_size", "4"]
    quick = ["--eval_strategy", "no", "--save_strategy", "no", "--do_predict", "false"]
    subprocess.run(
        [*torchrun, *command, *options, *quick, *more.split(), "--output_dir", str(tmp_path / "run")],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        timeout=280,
    )
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert record["training"]["processes"] == 2
    assert record["training"]["arguments"]["batch"] == 8

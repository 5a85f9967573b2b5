import copy
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize


pytest.importorskip("sentence_transformers")
pytest.importorskip("transformers", minversion="5.23")

from modeling_omni_vision import OmniVisionConfig
from modeling_omni_vision.modeling_omni_vision_retrieval import contrastive_loss
from modeling_omni_vision.retrieval import losses
from modeling_omni_vision.retrieval.build import as_sentence_transformer, build_retrieval
from modeling_omni_vision.retrieval.losses import (
    TwoWayContrastiveLoss,
    false_negative_mask,
    supervised_contrastive_loss,
    unwrap_retrieval_model,
)


TEXTS = ["a red circle", "a blue square and a green ring", "blue", "a green circle", "a red ring"]
COLOURS = ["red", "blue", "navy", "green", "orange"]
# Concept, text and the texts of the image: text 0 fits image 2 as well, the third and the fifth share a concept.
LABELS = torch.tensor([[0, 10, 10, 10], [1, 11, 11, 14], [2, 12, 12, 10], [3, 13, 13, 13], [2, 16, 16, 16]])
# Of two processes: the first has two images of a shared concept, the second one and a text that fits the first's.
LABELS_OF_TWO = torch.tensor([[1, 10, 10, 12], [1, 11, 11, 11], [2, 12, 12, 12], [1, 13, 13, 13]])
VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
# Gradients of equal functions in another order of sums, relative to the largest; measured up to 7e-7.
ROUNDING = 3e-6


@pytest.fixture(params=["softmax", "sigmoid"])
def kind(request):
    return request.param


def encoder_of(kind, late_interaction):
    torch.manual_seed(0)
    config = OmniVisionConfig(**VISION, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model, processor = build_retrieval(config, "new", TEXTS, embedding_dim=16, contrastive_loss=kind)
    # Vectors of an untrained model are nearly equal: larger weights separate them.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embeddings" not in name:
                parameter.mul_(4)
    return as_sentence_transformer(model, processor, late_interaction).train()


def columns_of(encoder, texts=TEXTS, colours=COLOURS):
    images = [Image.new("RGB", (32, 32), colour) for colour in colours]
    for number, image in enumerate(images):
        image.paste("white", (0, 0, 4 + 5 * number, 12))
    return [encoder.preprocess(texts), encoder.preprocess(images)]


def gradients(encoder, loss):
    core = unwrap_retrieval_model(encoder)
    core.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in core.named_parameters() if parameter.grad is not None}


def assert_close(found, wanted, name):
    assert (found - wanted).abs().max() <= ROUNDING * wanted.abs().max().clamp_min(1), name


def test_with_single_vectors_it_is_the_loss_of_the_model_itself(kind):
    encoder = encoder_of(kind, False)
    core, columns = unwrap_retrieval_model(encoder), columns_of(encoder)
    inputs = {name: columns[0][name] for name in losses.TEXT_FEATURES}
    wanted = core(pixel_values=columns[1]["pixel_values"], return_loss=True, **inputs).loss
    assert TwoWayContrastiveLoss(encoder)(columns).item() == pytest.approx(wanted.item(), abs=1e-5)


def test_late_interaction_takes_the_best_patch_for_each_token_and_the_mean_over_tokens(kind):
    encoder = encoder_of(kind, True)
    core, columns = unwrap_retrieval_model(encoder), columns_of(encoder)
    tokens = core.text_model(columns[0]["input_ids"], columns[0]["text_attention_mask"]).last_hidden_state
    words = normalize(core.text_projection(tokens), dim=-1)
    patches = normalize(core.visual_projection(core.vision_model(columns[1]["pixel_values"]).grid), dim=-1)
    scores = torch.zeros(len(TEXTS), len(COLOURS))
    for text, ids in enumerate(columns[0]["input_ids"].tolist()):
        real = [index for index, token in enumerate(ids) if token not in core.config.skiplist_token_ids]
        for image in range(len(COLOURS)):
            scores[text, image] = (words[text, real] @ patches[image].T).amax(1).mean()
    logits = scores * core.logit_scale.exp() + (core.logit_bias if kind == "sigmoid" else 0)
    wanted = contrastive_loss(logits.T, kind)
    assert TwoWayContrastiveLoss(encoder)(columns).item() == pytest.approx(wanted.item(), abs=1e-5)


@pytest.mark.parametrize(("late_interaction", "single_vector_weight"), [(False, 0), (True, 0), (True, 1), (True, 0.2)])
@pytest.mark.parametrize("mini_batch_size", [2, 5, 64])
def test_gradcache_gives_the_gradients_of_the_whole_batch_the_temperatures_too(
    kind, late_interaction, single_vector_weight, mini_batch_size
):
    encoder = encoder_of(kind, late_interaction)
    at_once = TwoWayContrastiveLoss(encoder, 0, single_vector_weight, image_pair_weight=0.5)(
        columns_of(encoder), LABELS
    )
    wanted = gradients(encoder, at_once / 4)
    cached = TwoWayContrastiveLoss(encoder, mini_batch_size, single_vector_weight, image_pair_weight=0.5)(
        columns_of(encoder), LABELS
    )
    found = gradients(encoder, cached / 4)
    assert cached.item() == pytest.approx(at_once.item(), abs=1e-5)
    assert set(found) == set(wanted) >= {"logit_scale"}
    assert wanted["logit_scale"].abs() > 1e-4
    for name in wanted:
        assert_close(found[name], wanted[name], name)


@pytest.mark.parametrize("weight", [1, 0.2])
def test_single_vectors_beside_multi_vectors_count_by_their_weight(kind, weight):
    late, single = encoder_of(kind, True), encoder_of(kind, False)
    multi, single_loss = (TwoWayContrastiveLoss(encoder)(columns_of(encoder)).item() for encoder in (late, single))
    found = TwoWayContrastiveLoss(late, single_vector_weight=weight)(columns_of(late))
    assert found.item() == pytest.approx((multi + weight * single_loss) / (1 + weight), abs=1e-5)
    assert abs(multi - single_loss) > 1e-3
    # A `SentenceTransformer` has single vectors only.
    assert TwoWayContrastiveLoss(single, single_vector_weight=weight)(columns_of(single)).item() == single_loss


@pytest.mark.slow
@pytest.mark.parametrize(("late_interaction", "mini_batch_size"), [(True, 0), (True, 1), (False, 0), (False, 1)])
def test_two_processes_give_the_gradients_of_one(kind, late_interaction, mini_batch_size, tmp_path):
    root = Path(__file__).resolve().parents[2]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = [kind, str(late_interaction), str(mini_batch_size), str(tmp_path / "found")]
    subprocess.run(
        [*torchrun, "-m", "tests.retrieval.two_processes", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        timeout=250,
    )
    found = torch.load(tmp_path / "found", weights_only=True)
    encoder = encoder_of(kind, late_interaction)
    unwrap_retrieval_model(encoder).text_model.pooler.requires_grad_(False)
    loss = TwoWayContrastiveLoss(encoder, image_pair_weight=0.5)
    loss = loss(columns_of(encoder, TEXTS[:4], COLOURS[:4]), LABELS_OF_TWO)
    wanted = gradients(encoder, loss)
    assert found["loss"].item() == pytest.approx(loss.item(), abs=1e-5)
    assert set(found["gradients"]) == set(wanted) >= {"logit_scale"}
    for name in wanted:
        assert_close(found["gradients"][name], wanted[name], name)


def test_pairs_of_the_same_concept_are_no_negatives_of_each_other(kind):
    encoder = encoder_of(kind, True)
    same = [*TEXTS[:3], TEXTS[0]], [*COLOURS[:3], COLOURS[0]]
    columns = columns_of(encoder, *same)
    unlabelled = TwoWayContrastiveLoss(encoder)(columns)
    labelled = TwoWayContrastiveLoss(encoder)(columns, torch.tensor([0, 1, 2, 0]))
    assert labelled < unlabelled
    # Two images of one text cannot be distinguished by it: without labels each is a wrong answer.
    apart = TwoWayContrastiveLoss(encoder)(columns, torch.tensor([0, 1, 2, 3]))
    assert torch.equal(apart, unlabelled)


def test_false_negatives_are_the_same_concept_and_a_text_among_those_of_an_image():
    same_concept, fits, fits_back = false_negative_mask(LABELS, LABELS, torch.arange(5))
    assert same_concept.nonzero().tolist() == [[2, 4], [4, 2]]
    # Text 0 and image 2, in both directions.
    assert fits.nonzero().tolist() == [[0, 2], [2, 4], [4, 2]]
    assert fits_back.nonzero().tolist() == [[2, 0], [2, 4], [4, 2]]
    # Rows 3 and 4 of a batch of which another process has the others.
    part = false_negative_mask(LABELS[3:], LABELS, torch.tensor([3, 4]))
    assert all(torch.equal(one, whole[3:]) for one, whole in zip(part, (same_concept, fits, fits_back), strict=True))


@pytest.mark.parametrize("late_interaction", [False, True])
def test_a_text_that_fits_another_image_is_no_wrong_answer_for_it_nor_the_image_for_the_text(kind, late_interaction):
    encoder = encoder_of(kind, late_interaction)
    core, columns = unwrap_retrieval_model(encoder), columns_of(encoder)
    found = TwoWayContrastiveLoss(encoder)(columns, LABELS)
    texts = {name: columns[0][name] for name in losses.TEXT_FEATURES}
    words, patches = core(**texts).embeddings, core(pixel_values=columns[1]["pixel_values"]).embeddings
    scores = torch.einsum("twd,pgd->tpwg", words, patches).amax(-1).sum(-1) / words.ne(0).any(-1).sum(1)[:, None]
    if not late_interaction:
        both = core(pixel_values=columns[1]["pixel_values"], **texts)
        scores = both.text_embeds @ both.image_embeds.T
    scores = scores * core.logit_scale.exp() + (core.logit_bias if kind == "sigmoid" else 0)
    allowed = torch.ones(5, 5, dtype=torch.bool)
    allowed[[0, 2, 4], [2, 4, 2]] = False
    if kind == "sigmoid":
        sign = 2 * torch.eye(5) - 1
        wanted = -(torch.nn.functional.logsigmoid(sign * scores) * allowed).sum() / 5
    else:
        masked, truth = scores.masked_fill(~allowed, -1e9), torch.arange(5)
        wanted = sum(torch.nn.functional.cross_entropy(part, truth) for part in (masked, masked.T)) / 2
    assert found.item() == pytest.approx(wanted.item(), abs=1e-5)
    # Without the text that fits, the scene is one more wrong answer to it.
    assert found < TwoWayContrastiveLoss(encoder)(columns, LABELS[:, 0])


def test_supervised_contrast_is_over_all_images_but_the_anchor_and_averages_its_positives():
    scores = torch.tensor([[9.0, 2.0, 0.0, 1.0], [2.0, 9.0, 1.0, 0.0], [0.0, 1.0, 9.0, 3.0], [1.0, 0.0, 3.0, 9.0]])
    same = torch.tensor([[False, True, False, False], [True, False, False, False], [False] * 4, [False] * 4])
    # The first two share a concept; each must be distinguished from two others: log(e^2 + e^0 + e^1) - 2.
    wanted = 2 * (math.log(math.exp(2) + 1 + math.e) - 2)
    assert supervised_contrastive_loss(scores, same, torch.arange(4)).item() == pytest.approx(wanted, abs=1e-6)
    # Three share a concept: the mean over the two positives of the first.
    same = torch.tensor([[False, True, True, False], *[[False] * 4] * 3])
    wanted = math.log(math.exp(2) + 1 + math.e) - (2 + 0) / 2
    assert supervised_contrastive_loss(scores, same, torch.arange(4)).item() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("late_interaction", [False, True])
def test_the_supervised_loss_is_added_with_its_weight_as_a_mean_over_images_that_have_positives(
    kind, late_interaction
):
    encoder, labels = encoder_of(kind, late_interaction), torch.tensor([0, 1, 2, 0, 3])
    columns = columns_of(encoder)
    without, once, thrice = (
        TwoWayContrastiveLoss(encoder, image_pair_weight=weight)(columns, labels).item() for weight in (0, 1, 3)
    )
    core = unwrap_retrieval_model(encoder)
    vectors = normalize(core.visual_projection(core.vision_model(columns[1]["pixel_values"]).grid), dim=-1)
    if not late_interaction:
        vectors = core(pixel_values=columns[1]["pixel_values"]).image_embeds.unsqueeze(1)
    scores = torch.einsum("aid,bjd->abij", vectors, vectors).amax(-1).mean(-1) * core.logit_scale.exp()
    others = [scores[row].exp().sum() - scores[row, row].exp() for row in (0, 3)]
    wanted = (others[0].log() - scores[0, 3] + others[1].log() - scores[3, 0]) / 2
    assert once - without == pytest.approx(wanted.item(), abs=1e-4)
    assert thrice - without == pytest.approx(3 * wanted.item(), abs=3e-4)


def test_images_of_distinct_concepts_add_no_supervised_loss_and_labels_are_needed(kind):
    encoder = encoder_of(kind, False)
    columns, apart = columns_of(encoder), torch.arange(5)
    plain = TwoWayContrastiveLoss(encoder)(columns, apart)
    assert torch.equal(TwoWayContrastiveLoss(encoder, image_pair_weight=1)(columns, apart), plain)
    with pytest.raises(ValueError, match="needs labels"):
        TwoWayContrastiveLoss(encoder, image_pair_weight=1)(columns)


def test_a_frozen_text_encoder_encodes_each_text_once_and_the_loss_is_the_same(kind, monkeypatch):
    encoder = encoder_of(kind, False)
    core = unwrap_retrieval_model(encoder)
    wanted = gradients(encoder, TwoWayContrastiveLoss(encoder)(columns_of(encoder)))
    core.text_model.requires_grad_(False).eval()
    read, forward = [], core.text_model.forward

    def watch(input_ids, **options):
        read.append(len(input_ids))
        return forward(input_ids=input_ids, **options)

    monkeypatch.setattr(core.text_model, "forward", watch)
    loss = TwoWayContrastiveLoss(encoder)
    for texts in (TEXTS[:3], TEXTS):
        value = loss(columns_of(encoder, texts, COLOURS[: len(texts)]))
    # What is new in the second batch; padding of another length is no other text.
    assert read == [1] * 5
    found = gradients(encoder, value)
    assert set(found) == {name for name in wanted if not name.startswith("text_model.")}
    for name in found:
        assert_close(found[name], wanted[name], name)
    # As soon as it is trained, texts are encoded anew.
    core.text_model.requires_grad_(True)
    loss(columns_of(encoder))
    assert read == [1] * 5 + [5]


def test_the_features_of_a_text_depend_on_no_bit_of_what_is_encoded_with_it():
    encoder = encoder_of("softmax", False)
    core = unwrap_retrieval_model(encoder)
    core.text_model.requires_grad_(False).eval()
    every = losses.TextFeatureCache(core)(columns_of(encoder)[0])
    for part in (slice(0, 1), slice(1, 4), slice(4, 1, -1)):
        texts = TEXTS[part]
        found = losses.TextFeatureCache(core)(columns_of(encoder, texts, COLOURS[: len(texts)])[0])
        assert torch.equal(found, every[part.start : part.stop] if part.step is None else every[[4, 3, 2]])


def test_where_texts_are_not_cached_each_batch_is_encoded_as_a_whole():
    encoder = encoder_of("softmax", False)
    core = unwrap_retrieval_model(encoder)
    core.text_model.requires_grad_(False).eval()
    read = []
    core.text_model.register_forward_pre_hook(
        lambda _, __, given: read.append(len(given["input_ids"])), with_kwargs=True
    )
    for cache_texts in (False, True):
        TwoWayContrastiveLoss(encoder, cache_texts=cache_texts)(columns_of(encoder))
    assert read == [5, *[1] * 5]


def test_cached_texts_are_dropped_before_they_fill_the_memory(monkeypatch):
    monkeypatch.setattr(losses, "MAX_CACHED_TEXTS", 3)
    encoder = encoder_of("softmax", False)
    unwrap_retrieval_model(encoder).text_model.requires_grad_(False).eval()
    cached = losses.TextFeatureCache(unwrap_retrieval_model(encoder))
    every = cached(columns_of(encoder)[0])
    for part in (slice(0, 3), slice(1, 4), slice(0, 2)):
        found = cached(columns_of(encoder, TEXTS[part], COLOURS[part])[0])
        assert (found - every[part]).abs().max() < 1e-5


def test_a_batch_of_one_pair_has_no_negatives_which_is_said_once(kind, caplog):
    encoder = encoder_of(kind, True)
    loss = TwoWayContrastiveLoss(encoder)
    for _ in range(2):
        value = loss(columns_of(encoder, TEXTS[:1], COLOURS[:1]))
    assert torch.isfinite(value)
    assert (value == 0) == (kind == "softmax")
    assert caplog.text.count("single pair") == 1


def test_a_longer_text_wins_no_image_by_its_length():
    encoder = encoder_of("softmax", True)
    columns = columns_of(encoder, ["blue", "blue blue blue blue"], ["blue", "blue"])
    core = unwrap_retrieval_model(encoder)
    # Without positions a word repeated is the word itself.
    with torch.no_grad():
        core.text_model.embeddings.position_embeddings.weight.zero_()
        columns[1]["pixel_values"][1] = columns[1]["pixel_values"][0]
    loss = TwoWayContrastiveLoss(encoder)(columns)
    # Equal images cannot be distinguished, nor texts of equal words but for what [CLS] and [SEP] add to their context.
    assert loss.item() == pytest.approx(math.log(2), abs=0.05)


def test_the_loss_adds_no_parameters_to_the_models(kind):
    encoder = encoder_of(kind, True)
    loss = TwoWayContrastiveLoss(copy.copy(encoder))
    assert {id(parameter) for parameter in loss.parameters()} == {id(parameter) for parameter in encoder.parameters()}

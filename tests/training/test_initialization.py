import torch
from torch.nn.functional import normalize

from modeling_omni_vision import OmniVisionConfig, OmniVisionForImageClassification
from modeling_omni_vision.training.initialization import mimetic_, waves


def new_model(**changes):
    torch.manual_seed(0)
    options = {"image_size": 28, "patch_size": 4, "num_channels": 1, "num_labels": 10} | changes
    model = OmniVisionForImageClassification(OmniVisionConfig(**options))
    mimetic_(model)
    return model


def test_tokens_look_at_what_is_like_them_and_values_come_back_negated():
    for layer in new_model().omni_vision.layers:
        attention = layer.attention
        assert (attention.o_proj.weight @ attention.v_proj.weight).diagonal().mean() < -0.3
        for rows in (slice(64), slice(64, 128)):
            product = attention.q_proj.weight[rows].T @ attention.k_proj.weight[rows]
            others = product - torch.diag(product.diagonal())
            # A head of 64 holds the larger half of the directions of 128.
            assert product.diagonal().mean() > 0.3
            assert others.mean().abs() < 0.01


def test_near_places_have_more_alike_waves_than_far_ones():
    places = normalize(waves(7, 7, 128), dim=1)
    corner = (places @ places.T)[0].reshape(7, 7)
    assert corner[0, 0] > corner[0, 1] > corner[0, 3]
    assert corner[0, 0] > corner[1, 0] > corner[3, 0] > corner[6, 6]


def test_the_start_is_centred_and_the_head_says_nothing_yet():
    model = new_model(num_register_tokens=2, pooling="cls_mean")
    assert model.residual_mean() < 1e-6
    assert model.eval()(torch.randn(2, 1, 28, 28)).logits.abs().max() == 0


def test_oblong_images_odd_widths_and_models_without_a_head_are_served():
    model = new_model(image_size=[28, 12], hidden_size=36, num_attention_heads=2, num_labels=0)
    assert model.eval()(torch.randn(2, 1, 28, 12)).logits.shape == (2, 36)

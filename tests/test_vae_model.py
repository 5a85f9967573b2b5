"""The variational autoencoder: its likelihood, its bounds, its randomness, and folders without our package."""

import math

import pytest
import torch
from packaging.version import Version
from torch.distributions import Independent, Normal, kl_divergence
from transformers import __version__ as transformers_version
from without_package import run_without_package

from modeling_omni_vision import OmniVisionImageProcessor, OmniVisionModel


if Version(transformers_version) < Version("5.23"):
    pytest.skip("composite models need transformers 5.23", allow_module_level=True)

from modeling_omni_vision import OmniVisionVAE, OmniVisionVAEConfig
from modeling_omni_vision.modeling_omni_vision_vae import discretized_logistic, standard_normal_divergence


VISION = {"image_size": [16, 24], "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
VISION |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_attention_heads": 2}
DECODER = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 48}
STATISTICS = {"image_means": [0.4, 0.5, 0.6], "image_deviations": [0.2, 0.25, 0.3]}


def config(**changes):
    options = {"vision_config": VISION, "decoder_config": DECODER, "latent_size": 5, **STATISTICS}
    return OmniVisionVAEConfig(**options | changes)


@pytest.fixture
def model():
    return OmniVisionVAE(config()).eval()


@pytest.fixture
def pixel_values():
    levels = torch.randint(0, 256, (3, 3, 16, 24)).float()
    mean, std = (torch.tensor(STATISTICS[name])[:, None, None] for name in ("image_means", "image_deviations"))
    return (levels / 255 - mean) / std


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("scale", [0.05, 2.0, 300.0])
@pytest.mark.parametrize("location", [-40.0, 0.0, 127.3, 254.9, 400.0])
def test_the_probabilities_of_all_pixel_values_sum_to_one(location, scale):
    levels = torch.arange(256, dtype=torch.float64)
    location, scale = (torch.tensor(number, dtype=torch.float64) for number in (location, scale))
    found = discretized_logistic(levels, location, scale)
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-9)
    below = torch.sigmoid((levels + 0.5 - location) / scale) - torch.sigmoid((levels - 0.5 - location) / scale)
    inner = slice(1, 255)
    assert torch.allclose(found.exp()[inner], below[inner], atol=1e-9)


def test_the_likelihood_is_finite_with_a_gradient_where_a_pixel_is_hopelessly_wrong():
    location, scale = torch.full((256,), 90.0, requires_grad=True), torch.tensor(1e-3, requires_grad=True)
    found = discretized_logistic(torch.arange(256.0), location, scale)
    found.sum().backward()
    assert found.isfinite().all()
    assert location.grad.isfinite().all()
    assert scale.grad.isfinite()


def test_the_divergence_is_that_of_torch():
    mean, log_variance = torch.randn(4, 6), torch.randn(4, 6)
    ours = Independent(Normal(mean, (log_variance / 2).exp()), 1)
    prior = Independent(Normal(torch.zeros(6), torch.ones(6)), 1)
    assert torch.allclose(standard_normal_divergence(mean, log_variance), kl_divergence(ours, prior), atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_the_loss_is_the_mean_over_images_of_reconstruction_and_weighted_divergence(pixel_values, beta):
    output = OmniVisionVAE(config(beta=beta)).eval()(pixel_values)
    assert output.reconstruction_loss.shape == output.kl_divergence.shape == (3,)
    assert torch.allclose(output.loss, (output.reconstruction_loss + beta * output.kl_divergence).mean())
    assert next(iter(output.keys())) == "loss"
    assert OmniVisionVAE(config())(pixel_values, return_loss=False).loss is None


def test_normalisation_is_undone_and_a_mean_image_is_grey_by_the_statistics(model, pixel_values):
    assert torch.allclose(model.unnormalize(pixel_values), model.unnormalize(pixel_values).round(), atol=1e-3)
    assert model.unnormalize(torch.zeros(1, 3, 2, 2))[0, :, 0, 0].tolist() == pytest.approx(
        [102, 127.5, 153], abs=1e-3
    )


def test_decoded_images_lie_between_black_and_white(model):
    model.decoder.projection.weight.data.mul_(1000)
    pixels = model.unnormalize(model.sample(8, seeded()))
    assert float(pixels.min()) == pytest.approx(0, abs=1e-3)
    assert float(pixels.max()) == pytest.approx(255, abs=1e-3)


def test_tokens_of_the_decoder_become_the_patches_in_their_places(model):
    decoder = model.decoder
    decoder.layers, decoder.norm = torch.nn.ModuleList(), torch.nn.Identity()
    decoder.position_scales.data.fill_(-1)  # positions alone
    decoder.position_embeddings.data.copy_(torch.arange(6.0)[None, :, None].expand(1, 6, 24))
    decoder.projection.weight.data.fill_(1 / 24)
    decoder.projection.bias.data.zero_()
    image = decoder(torch.zeros(1, 24))[0, 0]
    assert image.shape == (16, 24)
    assert image[::8, ::8].flatten().tolist() == pytest.approx([0, 1, 2, 3, 4, 5])
    assert torch.equal(image, image[::8, ::8].repeat_interleave(8, 0).repeat_interleave(8, 1))


def test_outside_of_training_the_latent_vector_is_the_mean_unless_there_is_noise_or_a_generator(model, pixel_values):
    plain, drawn, again = model(pixel_values), *(model(pixel_values, generator=seeded()) for _ in range(2))
    assert torch.equal(plain.latents, plain.latent_mean)
    assert not torch.equal(drawn.latents, plain.latents)
    assert torch.equal(drawn.latents, again.latents)
    noise = torch.randn(3, 5, generator=seeded())
    assert torch.equal(model(pixel_values, latent_noise=noise).latents, drawn.latents)
    assert not torch.equal(model.train()(pixel_values).latents, model(pixel_values).latents)


def test_encode_and_decode_are_the_halves_of_forward(model, pixel_values):
    output = model(pixel_values)
    mean, log_variance = model.encode(pixel_values)
    assert torch.equal(mean, output.latent_mean)
    assert torch.equal(log_variance, output.latent_log_variance)
    assert torch.equal(model.decode(mean), output.reconstruction)
    assert model.encode(torch.zeros(1, 3, 32, 32))[0].shape == (1, 5)


def test_the_bound_with_one_vector_is_minus_the_loss_and_more_vectors_tighten_it(model, pixel_values):
    model.mean_head.weight.data.mul_(30)
    model.latent_projection.weight.data.mul_(30)
    one = model.elbo(pixel_values, generator=seeded())
    output = model(pixel_values, latent_noise=torch.randn(3, 5, generator=seeded()))
    assert torch.allclose(one, -output.reconstruction_loss - output.kl_divergence, atol=1e-2)
    many = [torch.stack([model.elbo(pixel_values, count, seeded(seed)) for seed in range(20)]) for count in (2, 32)]
    assert (many[1].mean(0) > many[0].mean(0)).all()
    assert torch.equal(model.elbo(pixel_values, 3, seeded()), model.elbo(pixel_values, 3, seeded()))
    with pytest.raises(ValueError, match="`samples` must be at least 1, got 0"):
        model.elbo(pixel_values, 0)


def test_the_importance_weighted_bound_becomes_the_log_probability_where_the_latent_vector_means_nothing(pixel_values):
    model = OmniVisionVAE(config()).eval()
    model.latent_projection.weight.data.zero_()
    expected = model.log_likelihood(pixel_values, model.decode(torch.zeros(3, 5)))
    # Weights of a posterior that differs from the prior average to one: 0.1 nats of 5,000.
    assert torch.allclose(model.elbo(pixel_values, 200, seeded()), expected, atol=0.2)


def test_bits_per_dimension_of_an_untrained_model_are_about_those_of_the_pixels(model, pixel_values):
    assert model.nats_per_bit == pytest.approx(16 * 24 * 3 * math.log(2))
    assert 6 < float(-model.elbo(pixel_values).mean() / model.nats_per_bit) < 12


def test_samples_are_those_of_the_generator_whatever_mode_the_model_is_in(model):
    first, second = model.sample(2, seeded()), model.train().sample(2, seeded())
    assert first.shape == (2, 3, 16, 24)
    assert torch.equal(first, second)
    assert model.training


def test_the_decoder_has_the_size_and_the_channels_of_the_encoder_and_no_cls():
    made = config(decoder_config={**DECODER, "image_size": 64, "num_channels": 1})
    assert made.decoder_config.grid_size == (2, 3)
    assert made.decoder_config.num_channels == 3
    assert not made.decoder_config.use_cls_token
    assert OmniVisionVAEConfig().image_means == [0.5] * 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"latent_size": 0}, "`latent_size` must be at least 1, got 0"),
        ({"beta": -1.0}, "`beta` must be at least 0, got -1.0"),
        ({"image_means": [0.5]}, "`image_means` must be one number for each of 3 channels"),
        ({"image_deviations": [0.5, 0.5, 0.0]}, "`image_deviations` must be a positive number"),
        ({"scale_init_value": 0.0}, "`scale_init_value` must be a positive number"),
        ({"latent_size": "8"}, "OmniVisionVAEConfig got a value of the wrong type"),
    ],
)
def test_what_cannot_be_is_refused_by_a_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        config(**changes)


def test_images_of_another_size_and_unknown_arguments_are_refused(model):
    with pytest.raises(
        ValueError, match=r"Expected images of \(16, 24\) pixels, which the decoder makes, got \(32, 32\)"
    ):
        model(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"got 'labels'"):
        model(torch.zeros(1, 3, 16, 24), labels=torch.zeros(1))
    with pytest.raises(ValueError, match="must hold images, got None"):
        model(None)


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls_mean", "attention"])
def test_every_pooling_of_the_encoder_feeds_the_heads_in_training_and_outside(pixel_values, pooling):
    model = OmniVisionVAE(config(vision_config={**VISION, "pooling": pooling})).eval()
    outside = model(pixel_values).latent_mean
    assert torch.allclose(model.train()(pixel_values).latent_mean, outside, atol=1e-5)


def test_half_precision_computes_the_loss_in_single_precision(model, pixel_values):
    expected = model(pixel_values)
    found = model.to(torch.bfloat16)(pixel_values.to(torch.bfloat16))
    assert found.loss.dtype == torch.float32
    # Pixels in bfloat16 are off by up to one level of 255, and so are locations.
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=0.01)
    assert found.reconstruction.dtype == torch.bfloat16


def test_a_small_model_learns_to_reconstruct_one_batch(pixel_values):
    model = OmniVisionVAE(config(scale_init_value=30.0)).train()
    smooth = torch.nn.functional.avg_pool2d(pixel_values, 5, 1, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        loss = model(smooth, generator=seeded()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 300


def test_a_saved_folder_opens_without_our_package_and_computes_the_same(model, pixel_values, tmp_path):
    model.save_pretrained(tmp_path / "vae")
    OmniVisionImageProcessor(size={"height": 16, "width": 24}).save_pretrained(tmp_path / "vae")
    torch.save((pixel_values, *model.encode(pixel_values), model.sample(2, seeded())), tmp_path / "expected.pt")
    code = f"""
import json
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel
folder = {str(tmp_path / "vae")!r}
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
assert type(AutoConfig.from_pretrained(folder, trust_remote_code=True)).__name__ == "OmniVisionVAEConfig"
assert type(AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)).__name__.startswith("OmniVision")
pixels, mean, log_variance, sample = torch.load({str(tmp_path / "expected.pt")!r})
assert torch.equal(model.encode(pixels)[0], mean) and torch.equal(model.encode(pixels)[1], log_variance)
assert torch.equal(model.sample(2, torch.Generator().manual_seed(0)), sample)
print(json.dumps(type(model).__module__.partition(".")[0]))
"""
    assert run_without_package(code, cwd=tmp_path) == "transformers_modules"


def test_a_checkpoint_that_lacks_weights_is_refused(model, tmp_path):
    OmniVisionModel(model.config.vision_config).save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="A checkpoint of OmniVisionVAE must hold all of its weights"):
        OmniVisionVAE.from_pretrained(tmp_path)

import json

import pytest
from transformers import HfArgumentParser

from modeling_omni_vision.training import arguments
from modeling_omni_vision.training.arguments import OmniVisionTrainingArguments, RecipeArguments, read_fields


OUR_FLAGS = [
    *(
        "dataset",
        "image_column",
        "label_column",
        "validation_fraction",
        "test_fraction",
        "model",
        "config",
        "min_crop_scale",
        "max_translate",
        "flip",
    ),
    *("rand_augment", "random_erasing", "mixup", "cutmix", "class_balance"),
    *("teachers", "teacher_weight", "teacher_temperature", "ema_decay", "layer_decay"),
    *("muon_learning_rate", "mimetic_init", "center_residual", "images_on_device", "cuda_graphs"),
]


def parse(*words):
    parser = HfArgumentParser((RecipeArguments, OmniVisionTrainingArguments))
    return parser.parse_args_into_dataclasses(["--dataset", "digits", "--output_dir", "x", *words])


def test_our_flags_are_these_and_a_new_one_is_a_decision():
    assert list(RecipeArguments.__dataclass_fields__) == OUR_FLAGS


def test_no_flag_of_ours_hides_one_of_the_trainer():
    assert not set(OUR_FLAGS) & set(OmniVisionTrainingArguments.__dataclass_fields__)


def test_the_command_line_reaches_both_kinds_of_arguments():
    recipe, args = parse("--mixup", "0.2", "--flip", "true", "--learning_rate", "3e-4", "--center_residual", "false")
    assert (recipe.mixup, recipe.flip, recipe.center_residual, args.learning_rate) == (0.2, True, False, 3e-4)


def test_bf16_works_on_a_cpu_without_saying_use_cpu():
    _, args = parse("--bf16", "true")
    assert args.use_cpu
    assert args.bf16
    assert not args.dataloader_pin_memory


def test_zero_and_false_are_remembered_where_nothing_means_something_else():
    args = OmniVisionTrainingArguments("x", seed=5, data_seed=0, greater_is_better=False, lr_scheduler_kwargs={})
    assert args.given == {"output_dir": "x", "seed": 5, "data_seed": 0, "greater_is_better": False}


def test_what_was_given_is_remembered_without_what_was_filled_in():
    recipe, args = parse("--mixup", "0.2", "--seed", "7")
    assert recipe.given == {"dataset": "digits", "mixup": 0.2}
    assert args.given == {"output_dir": "x", "seed": 7}


def test_the_test_split_is_opened_unless_told_otherwise():
    assert parse()[1].do_predict
    assert not parse("--do_predict", "false")[1].do_predict


def test_a_secret_is_not_remembered():
    _, args = parse("--hub_token", "hf_secret")
    assert "hf_secret" not in str(args.given)


def test_shuffling_follows_the_seed():
    assert parse("--seed", "7")[1].data_seed == 7
    assert parse("--seed", "7", "--data_seed", "8")[1].data_seed == 8


def test_evaluation_can_be_switched_off_alone():
    _, args = parse("--eval_strategy", "no")
    assert not args.load_best_model_at_end


def test_dropping_the_image_column_is_refused():
    with pytest.raises(ValueError, match="removes the images"):
        parse("--remove_unused_columns", "true")


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--ema_decay", "1.0", "below 1, got 1.0"),
        ("--layer_decay", "0", "above 0 and at most 1, got 0"),
        ("--muon_learning_rate", "-0.1", "at least 0, got -0.1"),
        ("--config", "{not json", "must be JSON"),
        ("--config", "no/such/file.json", "a file of it"),
        ("--config", '{"image_sise": 8}', r"fields of OmniVisionConfig, got \['image_sise'\]"),
    ],
)
def test_impossible_values_are_refused_when_they_are_read(flag, value, message):
    with pytest.raises(ValueError, match=message):
        parse(flag, value)


def test_the_config_can_be_a_file(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"image_size": 8, "attn_implementation": "eager"}))
    recipe, _ = parse("--config", str(tmp_path / "c.json"))
    assert recipe.config_fields() == {"image_size": 8, "attn_implementation": "eager"}


@pytest.mark.parametrize(
    ("metric", "greater"),
    [
        *(("loss", False), ("eval_loss", False), ("ece", False), ("expected_calibration_error", False)),
        *(
            ("rmse", False),
            ("eval_distance", False),
            ("perplexity", False),
            ("word_error_rate", False),
            ("nll", False),
            ("eval_WER", False),
        ),
        *(("accuracy", True), ("balanced_accuracy", True), ("eval_sequential_score", True), ("ndcg@10", True)),
        *(("mean_average_precision", True), ("terror", True), ("glossiness", True)),
    ],
)
def test_the_direction_of_a_metric_follows_from_its_name_unless_told_otherwise(metric, greater):
    assert parse("--metric_for_best_model", metric)[1].greater_is_better is greater
    told = parse("--metric_for_best_model", metric, "--greater_is_better", str(not greater))[1]
    assert told.greater_is_better is not greater


def test_a_plateau_is_of_the_metric_in_its_direction():
    assert parse("--lr_scheduler_type", "reduce_lr_on_plateau")[1].lr_scheduler_kwargs["mode"] == "max"
    words = ("--lr_scheduler_type", "reduce_lr_on_plateau", "--metric_for_best_model", "loss")
    assert parse(*words)[1].lr_scheduler_kwargs["mode"] == "min"


def test_a_run_needs_a_folder():
    with pytest.raises(ValueError, match=r"must name the folder of the run, got none\. Add --output_dir"):
        OmniVisionTrainingArguments()


@pytest.mark.parametrize(
    ("name", "said"), [("wnadb", "Did you mean wandb"), ("dvclive", "pip install dvclive"), ("x", "Name one of")]
)
def test_a_tracker_that_is_unknown_or_not_installed_is_refused_first(tmp_path, name, said, monkeypatch):
    monkeypatch.setattr(arguments, "get_available_reporting_integrations", lambda: ["trackio"])
    with pytest.raises(ValueError, match=f"`report_to` .*{name}.*{said}"):
        OmniVisionTrainingArguments(output_dir=str(tmp_path), report_to=["trackio", name])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ('{"patchsize": 4}', r"got \['patchsize'\]. Correct or remove them, did you mean patch_size\?"),
        ('{"hidden_sise": 8, "qqqq": 1}', r"got \['hidden_sise', 'qqqq'\].*did you mean hidden_size\?"),
        ('{"qqqq": 1}', r"got \['qqqq'\]. Correct or remove them\.$"),
    ],
)
def test_an_unknown_field_is_answered_with_the_nearest(given, message):
    with pytest.raises(ValueError, match=message):
        read_fields("config", given)

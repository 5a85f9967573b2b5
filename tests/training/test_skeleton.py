"""What every training promises, checked against each of them."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from packaging.version import Version
from report_page import titles_of
from runs import At, record_of, same, weights_of
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback
from transformers import __version__ as transformers_version
from transformers.trainer_pt_utils import LabelSmoother

from modeling_omni_vision.training import classification
from modeling_omni_vision.training.arguments import OmniVisionTrainingArguments, RecipeArguments
from modeling_omni_vision.training.interruption import StopOnSignal, TrainingInterruptedError
from modeling_omni_vision.training.skeleton import NonFiniteLossError, SkeletonTrainer, TrainingRun


TOWER = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
# Everything that draws random numbers in the training of a classifier, at once.
RANDOM = {"max_translate": 1, "flip": True, "rand_augment": 5, "random_erasing": 0.5, "mixup": 0.2, "cutmix": 1.0}
STEPS = 6  # two epochs of three
RETRIEVAL = ["retrieval multi-vector", "retrieval single-vector", "retrieval single-vector lora"]
TASKS = ["classification", *RETRIEVAL, "language", "language lora", "vae"]


class Task:
    """A training of two epochs of three steps, with a checkpoint at each step."""

    def __init__(self, name, folder, source):
        self.name, self.folder, self.source, self.callbacks = name, folder, source, []
        self.training = {"num_train_epochs": 2, "disable_tqdm": True, "seed": 3, "logging_steps": 1}
        self.training |= {"save_strategy": "steps", "save_steps": 1, "save_total_limit": None, "do_predict": False}
        self.training |= {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": False}

    def run(self, output, **changes):
        options = {**self.training, "output_dir": str(self.folder / output), **changes}
        return getattr(self, self.name.split()[0])(options)

    def classification(self, options):
        config = {"image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 16, "num_hidden_layers": 2}
        config |= {"intermediate_size": 32, "drop_path_rate": 0.1, "patch_drop_rate": 0.25}
        levers = {**RANDOM, "muon_learning_rate": 0.02, "mimetic_init": True, "ema_decay": 0.9}
        levers |= {"class_balance": "sampler"}
        recipe = RecipeArguments(dataset=str(self.source), config=json.dumps(config), **levers)
        size = {"per_device_train_batch_size": 12, "label_smoothing_factor": 0.1}
        return classification.train(recipe, OmniVisionTrainingArguments(**{**size, **options}))

    def retrieval(self, options):
        from modeling_omni_vision.training.retrieval import train_retrieval
        from modeling_omni_vision.training.retrieval_arguments import RetrievalArguments, RetrievalTrainingArguments

        vectors = "single_vector" if "single" in self.name else "both"
        fields = {"text": "new", "train": "all", "embedding_dim": 16, "muon_learning_rate": 0.02, "vectors": vectors}
        fields |= {"train": "image", "lora_rank": 2} if "lora" in self.name else {}
        recipe = RetrievalArguments(dataset="scenes", config=json.dumps(TOWER), **fields)
        return train_retrieval(recipe, RetrievalTrainingArguments(**{"per_device_train_batch_size": 8, **options}))

    def language(self, options):
        from modeling_omni_vision.training.language import train_language
        from modeling_omni_vision.training.language_arguments import LanguageArguments, LanguageTrainingArguments

        fields = {"vision_feature_select_strategy": "grid", "stage": "lora" if "lora" in self.name else "all"}
        fields |= {"muon_learning_rate": 0.02, "text_muon_learning_rate": 0.02}
        fields |= {"config": json.dumps(TOWER)}
        fields |= {"text_config": json.dumps(TEXT)} if "neox" not in self.name else {"text": str(self.source)}
        recipe = LanguageArguments(dataset="scenes", max_questions_per_sequence=20, **fields)
        return train_language(recipe, LanguageTrainingArguments(**{"per_device_train_batch_size": 8, **options}))

    def vae(self, options):
        from modeling_omni_vision.training.vae import train_vae
        from modeling_omni_vision.training.vae_arguments import VaeArguments, VaeTrainingArguments

        config = {"image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 16, "num_hidden_layers": 2}
        levers = {"max_translate": 1, "flip": True, "muon_learning_rate": 0.02, "ema_decay": 0.9, "latent_size": 4}
        recipe = VaeArguments(
            dataset=str(self.source), config=json.dumps({**config, "hidden_dropout_prob": 0.1}), **levers
        )
        return train_vae(recipe, VaeTrainingArguments(**{"per_device_train_batch_size": 12, **options}))

    def weights(self, folder):
        return weights_of(folder)

    def checkpoints(self, output):
        return sorted(path.name for path in (self.folder / output).glob("checkpoint-*"))


def training_of(folder):
    return record_of(folder)["training"]


def use_few_scenes(patch):
    from modeling_omni_vision.data.synthetic.scene_questions import draw_questions
    from modeling_omni_vision.training import language

    scenes = draw_questions(size=32, sizes={"train": 24, "validation": 4, "test": 4, "held_out": 4})
    patch.setattr(language, "load_questions", lambda *options: scenes)


@pytest.fixture(scope="module", params=TASKS)
def task(request, tmp_path_factory, tiny_source):
    made = Task(request.param, tmp_path_factory.mktemp("runs"), tiny_source)
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "classification":
            pytest.importorskip("peft")
            if Version(transformers_version) < Version("5.23"):
                pytest.skip("models of several parts need transformers 5.23")
        if request.param.startswith("retrieval"):
            pytest.importorskip("sentence_transformers")
            from modeling_omni_vision.data import pairs

            sizes, draw = {"train": 24, "validation": 8, "test": 8}, pairs.draw_scenes
            patch.setattr(pairs, "draw_scenes", lambda objects: draw(objects, size=32, sizes=sizes))
        if request.param.startswith("language"):
            use_few_scenes(patch)
        original = SkeletonTrainer.train

        def with_callbacks(self, *args, **kwargs):
            for callback in made.callbacks:
                self.add_callback(callback)
            return original(self, *args, **kwargs)

        patch.setattr(SkeletonTrainer, "train", with_callbacks)
        with pytest.MonkeyPatch.context() as reports:
            reports.setattr(TrainingRun, "save_report", TrainingRun.drawn_report)
            made.whole = made.run("whole")
        yield made


def test_a_run_leaves_a_report_with_what_the_task_draws(task):
    drawn = {"classification": "Confusion matrix", "retrieval": "Texts whose image is found worst"}
    titles = ["Loss and what was measured on validation", "Samples, classes and sizes of images"]
    if task.name != "vae":  # whose sheets are drawn where it is measured
        titles += [drawn.get(task.name.split()[0], "Wrong answers"), "Attention of CLS in the last layer"]
    assert {*titles} <= {*titles_of(task.whole)}
    assert "Not on this page" not in (task.whole / "report.html").read_text()


def test_the_record_says_how_the_run_was_made(task):
    record = training_of(task.whole)
    assert record["steps"] == record["chosen_step"] == STEPS
    assert record["epochs"] == 2
    assert record["seed"] == 3
    assert record["resumed_from"] is None
    assert record["processes"] == 1
    assert {"date", "versions", "machine", "minutes", "cpu_minutes"} <= set(record)
    assert [entry["step"] for entry in record["history"]] == list(range(1, STEPS + 1))
    assert [entry["step"] for entry in record["evaluations"]] == list(range(1, STEPS + 1))
    # Of the published model: LoRA is merged.
    assert record["parameters"] == sum(weight.numel() for weight in task.weights(task.whole).values()) + tied(task)
    assert record["trained_parameters"] > 0


def tied(task):
    """Parameters that the file leaves out since others share them, less what it holds that is no parameter."""
    if not task.name.startswith("language"):
        return 0
    from modeling_omni_vision import OmniVisionForConditionalGeneration

    model = OmniVisionForConditionalGeneration.from_pretrained(task.whole)
    return sum(weight.numel() for weight in model.parameters()) - sum(
        weight.numel() for weight in task.weights(task.whole).values()
    )


def test_folders_hold_no_pickle_of_this_machine(task):
    assert not list(task.whole.rglob("training_args.bin"))


def explode(monkeypatch, step, change):
    """Change the training loss at one step."""
    original = SkeletonTrainer.training_step

    def training_step(self, *args, **kwargs):
        if self.state.global_step == step - 1:
            compute = self.compute_loss
            self.compute_loss = lambda *given, **named: change(self, compute(*given, **named))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(SkeletonTrainer, "training_step", training_step)


def not_a_number(trainer, loss):
    return loss * float("nan")


def infinite_slope(trainer, loss):
    weight = next(parameter for parameter in trainer.core.parameters() if parameter.requires_grad)
    return loss + (weight * 0).abs().sqrt().sum() * 0.0  # value 0, gradient nan


@pytest.mark.parametrize(("change", "name"), [(not_a_number, "loss"), (infinite_slope, "gradient norm")])
def test_what_is_not_finite_stops_before_the_weights_and_names_the_step(task, monkeypatch, change, name):
    explode(monkeypatch, 5, change)
    names_rows = task.name in ("classification", "vae")
    rows = r", in the batch of rows \[\d+(, \d+){11}\]" if names_rows else r"\."
    output = f"not finite {name}"
    with pytest.raises(NonFiniteLossError, match=f"Expected a finite {name}, got nan at step 5{rows}"):
        task.run(output)
    assert task.checkpoints(output) == [f"checkpoint-{step}" for step in range(1, 5)]
    assert not any(path.is_file() for path in (task.folder / output).iterdir())
    assert same(*(task.weights(task.folder / run / "checkpoint-4") for run in (output, "whole")))
    assert all(weight.isfinite().all() for weight in task.weights(task.folder / output / "checkpoint-4").values())


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(task):
    # In the middle of the first epoch.
    shutil.copytree(task.whole / "checkpoint-2", task.folder / "resumed" / "checkpoint-2")
    resumed = task.run("resumed", resume_from_checkpoint="true")
    assert training_of(resumed)["resumed_from"] == "checkpoint-2"
    assert same(task.weights(task.whole), task.weights(resumed))
    for name in (path.name for path in (task.whole / "checkpoint-6").glob("*.safetensors")):
        assert same(*(load_file(folder / "checkpoint-6" / name) for folder in (task.whole, resumed)))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_first_and_the_resumed_run_ends_as_if_nothing_had_happened(task, signum):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    output = signal.Signals(signum).name
    message = rf"{output}: stopped at step \d of 6, saved checkpoint-\d\. Continue with --resume_from_checkpoint true"
    task.callbacks.append(At(4, lambda: os.kill(os.getpid(), signum)))
    options = {"save_strategy": "epoch", "eval_strategy": "epoch"}
    try:
        with pytest.raises(TrainingInterruptedError, match=message) as stopped:
            task.run(output, **options)
    finally:
        task.callbacks.clear()
    assert stopped.value.signum == signum
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert not (task.folder / output / "metrics.json").exists()
    newest = task.checkpoints(output)[-1]
    # The signal comes while callbacks of the step run, ours before or after it.
    assert newest in ("checkpoint-4", "checkpoint-5")
    resumed = task.run(output, resume_from_checkpoint="true", **options)
    assert training_of(resumed)["resumed_from"] == newest
    assert same(task.weights(task.whole), task.weights(resumed))
    assert training_of(resumed)["evaluations"][-1] == training_of(task.whole)["evaluations"][-1]


def test_a_finished_run_is_not_overwritten(task):
    with pytest.raises(ValueError, match="finished run"):
        task.run("whole")


OF_CHECKPOINTS = {
    "retrieval": [
        *(("embedding_dim", 32, 16), ("contrastive_loss", "sigmoid", "softmax")),
        ("vision_feature_select_strategy", "cls+grid", "grid"),
    ],
    "language": [
        *(("fusion", "late", "early"), ("projector", "mlp", "linear"), ("scale_factor", 2, 1)),
        *(("vision_feature_select_strategy", "cls", "grid"), ("cross_attention_interval", 1, 4)),
    ],
    "vae": [("latent_size", 8, 4)],
}


def test_what_a_checkpoint_has_of_its_own_is_refused_by_both_values_and_kept_otherwise(task, monkeypatch):
    name = task.name.split()[0]
    if name == "classification":
        pytest.skip("its --config is tested with the classifier")
    module = importlib.import_module(f"modeling_omni_vision.training.{name}")
    kind = getattr(
        importlib.import_module(f"modeling_omni_vision.training.{name}_arguments"), f"{name.title()}Arguments"
    )
    starts = {"retrieval": lambda recipe: module._start(recipe, {}), "vae": lambda recipe: module.build_vae(recipe)}
    start = starts[name] if name in starts else start_of_language(module, task)
    for flag, value, own in OF_CHECKPOINTS[name]:
        with pytest.raises(ValueError, match=re.escape(f"was trained with `{flag}` {own!r}, got {value!r}")):
            start(kind(dataset="scenes", model=str(task.whole), **{flag: value}))
        start(kind(dataset="scenes", model=str(task.whole), **{flag: own}))
    parts = [("decoder_config", "{}") if name == "vae" else ("text", "new"), ("vision", "x"), ("config", "{}")]
    for flag, value in parts:
        with pytest.raises(ValueError, match="`model` has"):
            kind(dataset="scenes", model=str(task.whole), **{flag: value})


def start_of_language(module, task):
    arguments = training_arguments("language")(output_dir=str(task.folder / "start"))
    return lambda recipe: module.LanguageRun(recipe, arguments).start({})


@pytest.fixture
def neox(tmp_path, monkeypatch):
    """A language task around a text model whose output layer has another name on disk than in memory."""
    pytest.importorskip("peft")
    pytest.importorskip("transformers", minversion="5.23")
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    from modeling_omni_vision.data.synthetic.scene_questions import scene_texts
    from modeling_omni_vision.data.word_tokenizer import new_chat_tokenizer

    tokenizer = new_chat_tokenizer(scene_texts())
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **sizes))
    for part in (text, tokenizer):
        part.save_pretrained(tmp_path / "neox")
    use_few_scenes(monkeypatch)
    return Task("language neox", tmp_path, tmp_path / "neox")


def test_weights_with_other_names_on_disk_are_resumed_and_the_best_of_them_found(neox, monkeypatch):
    whole = neox.run("whole")
    saved = neox.weights(whole / "checkpoint-2")
    assert any("embed_out" in name for name in saved)
    shutil.copytree(whole / "checkpoint-2", neox.folder / "resumed" / "checkpoint-2")
    resumed = neox.run("resumed", resume_from_checkpoint="true")
    assert same(neox.weights(whole), neox.weights(resumed))
    scores = iter([0.1, 0.9, 0.2, 0.3, 0.4, 0.5])
    monkeypatch.setattr(
        "modeling_omni_vision.training.language.answer_metrics",
        lambda answers: {"accuracy": next(scores), "kinds": {}},
    )
    best = neox.run("best", load_best_model_at_end=True)
    assert same(neox.weights(best), saved)


def test_a_checkpoint_that_lacks_weights_is_refused_by_their_names(neox):
    folder = neox.run("whole", max_steps=2) / "checkpoint-2"
    weights = neox.weights(folder)
    missing = [weights.pop(next(name for name in weights if "embed_out" in name))]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert missing
    with pytest.raises(ValueError, match=r"must hold .*lm_head"):
        neox.run("again", resume_from_checkpoint=str(folder))


# Of the Trainer's arguments: a value, and what is seen of it in a run.
FLAGS = {
    "learning_rate": (2e-3, lambda seen: seen.rates[-1] == 2e-3),
    "lr_scheduler_type": ("constant_with_warmup", lambda seen: seen.rates[2] == seen.rates[3]),
    "warmup_steps": (2, lambda seen: seen.rates[:2] == [0, 1e-3]),
    "weight_decay": (0.2, lambda seen: {group["weight_decay"] for group in seen.groups} == {0.0, 0.2}),
    "adam_beta1": (0.8, lambda seen: {group["betas"][0] for group in seen.groups} == {0.8}),
    "adam_beta2": (0.95, lambda seen: {group["betas"][1] for group in seen.groups} == {0.95}),
    "adam_epsilon": (1e-7, lambda seen: {group["eps"] for group in seen.groups} == {1e-7}),
    "max_grad_norm": (0.01, lambda seen: max(seen.norms) < 0.0101),
    "max_steps": (4, lambda seen: seen.trainer.state.global_step == 4),
    "gradient_accumulation_steps": (2, lambda seen: seen.forwards > 6),
    "per_device_train_batch_size": (5, lambda seen: seen.sizes[True] == {5}),
    "per_device_eval_batch_size": (3, lambda seen: max(seen.sizes[False]) == 3),
    "dataloader_drop_last": (True, lambda seen: len(seen.loader) == len(seen.trainer.train_dataset) // 5),
    "dataloader_num_workers": (1, lambda seen: seen.loader.num_workers == 1),
    "logging_steps": (2, lambda seen: seen.logged("loss") == [1, 2, 4]),
    "logging_first_step": (True, lambda seen: 1 in seen.logged("loss")),
    "eval_steps": (2, lambda seen: 2 in seen.evaluated),
    "eval_on_start": (True, lambda seen: seen.evaluated == [0, 2, 4]),
    "eval_strategy": ("steps", lambda seen: 3 not in seen.evaluated),
    "save_strategy": ("steps", lambda seen: "checkpoint-4" in seen.saved),
    "save_steps": (1, lambda seen: seen.saves == [1, 2, 3, 4]),
    "save_total_limit": (2, lambda seen: len(seen.saved) == 2),  # the best and the last
    "save_only_model": (True, lambda seen: not list(seen.folder.rglob("optimizer.pt"))),
    "gradient_checkpointing": (True, lambda seen: any(map(is_checkpointed, seen.trainer.core.modules()))),
    "bf16": (True, lambda seen: seen.trainer.accelerator.mixed_precision == "bf16"),
    "seed": (11, lambda seen: training_of(seen.folder)["seed"] == 11),
    "do_predict": (False, lambda seen: set(json.loads((seen.folder / "metrics.json").read_text())) == {"training"}),
}


def is_checkpointed(module):
    return getattr(module, "gradient_checkpointing", False)


class Seen(TrainerCallback):
    """What can be seen of the Trainer's arguments in a run."""

    def __init__(self):
        self.rates, self.norms, self.evaluated, self.forwards = [], [], [], 0
        self.saves, self.sizes = [], {True: set(), False: set()}

    def on_train_begin(self, args, state, control, train_dataloader, **kwargs):
        self.loader = train_dataloader
        tower = next(part for name, part in self.trainer.core.named_modules() if name.endswith("patch_embeddings"))
        tower.register_forward_pre_hook(lambda _, inputs: self.sizes[self.trainer.core.training].add(len(inputs[0])))

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    def on_optimizer_step(self, args, state, control, optimizer, **kwargs):
        self.groups = [group for group in optimizer.param_groups if not group.get("muon")]
        self.rates.append(max(group["lr"] for group in self.groups))
        self.forwards += 1

    def on_substep_end(self, *event, **kwargs):
        self.forwards += 1

    def on_evaluate(self, args, state, control, **kwargs):
        self.evaluated.append(state.global_step)

    def on_save(self, args, state, control, **kwargs):
        self.saves.append(state.global_step)

    def logged(self, name):
        return [entry["step"] for entry in self.trainer.state.log_history if name in entry]

    @property
    def saved(self):
        return sorted(path.name for path in self.folder.glob("checkpoint-*"))


@pytest.fixture(scope="module")
def seen(task):
    found = Seen()
    original = SkeletonTrainer.train

    def train(self, *args, **kwargs):
        found.trainer = self
        self.add_callback(found)
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SkeletonTrainer, "train", train)
        found.folder = task.run("flags", **{name: value for name, (value, _) in FLAGS.items()})
    return found


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_of_the_trainer_acts_in_every_training(seen, flag):
    value, acts = FLAGS[flag]
    assert acts(seen), (flag, value, {name: part for name, part in vars(seen).items() if name != "trainer"})


ALWAYS_REFUSED = {
    "prediction_loss_only": True,
    "batch_eval_metrics": True,
    "eval_do_concat_batches": False,
    "include_for_metrics": ["inputs"],
    "bf16_full_eval": True,
    "label_names": ["target"],
    "length_column_name": "width",
    "optim_target_modules": ["all-linear"],
    "fp16": True,
    "fsdp": "full_shard",
    "remove_unused_columns": True,
    "output_dir": None,
}
REFUSED = {
    "classification": {"neftune_noise_alpha": 5.0, "train_sampling_strategy": "group_by_length"},
    "retrieval": {
        "label_smoothing_factor": 0.1,
        "neftune_noise_alpha": 5.0,
        "train_sampling_strategy": "sequential",
        "eval_accumulation_steps": 2,
    },
    "language": {"eval_accumulation_steps": 2, "eval_use_gather_object": True},
}


def training_arguments(name):
    if name == "classification":
        return OmniVisionTrainingArguments
    if name == "retrieval":
        pytest.importorskip("sentence_transformers")
    module = importlib.import_module(f"modeling_omni_vision.training.{name}_arguments")
    return getattr(module, f"{name.title()}TrainingArguments")


@pytest.mark.parametrize(
    ("name", "flag", "value"),
    [(name, flag, value) for name, own in REFUSED.items() for flag, value in {**ALWAYS_REFUSED, **own}.items()],
)
def test_a_flag_that_cannot_act_is_refused_by_its_name(name, flag, value, tmp_path):
    with pytest.raises(ValueError, match=f"`{flag}`") as refused:
        training_arguments(name)(**{"output_dir": str(tmp_path), "use_cpu": True, flag: value})
    assert "\n" not in str(refused.value)


def test_a_metric_without_evaluations_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`metric_for_best_model` needs evaluations"):
        OmniVisionTrainingArguments(str(tmp_path), eval_strategy="no", metric_for_best_model="loss")


def test_an_unknown_metric_is_answered_with_the_nearest_one_of_the_task(task):
    near = {"c": "loss", "v": "loss", "r": "text_to_image_score_ndcg@10", "l": "accuracy"}[task.name[0]]
    with pytest.raises(ValueError, match=rf"must be one of .*, got '{near[:-1]}x'\..* Did you mean {near}"):
        task.run("unknown metric", metric_for_best_model=f"{near[:-1]}x", load_best_model_at_end=True)


def test_a_broken_output_in_evaluation_stops_before_its_checkpoint(task, monkeypatch):
    def breaks(trainer, *args, **kwargs):
        if trainer.state.global_step == 3:
            head = [part for part in trainer.core.modules() if isinstance(part, torch.nn.Linear)][-1]
            head.register_forward_hook(lambda part, inputs, output: output * float("nan"))
        return evaluate(trainer, *args, **kwargs)

    monkeypatch.setattr(SkeletonTrainer, "_evaluate", breaks)
    with pytest.raises(NonFiniteLossError, match=r"at step 3\. Earlier checkpoints are intact"):
        task.run("broken evaluation")
    assert task.checkpoints("broken evaluation") == ["checkpoint-1", "checkpoint-2"]


evaluate = SkeletonTrainer._evaluate


def test_smoothed_labels_of_answers_are_shifted(task, monkeypatch):
    if not task.name.startswith("language"):
        pytest.skip("answers are tokens in language training alone")
    losses = []

    def compare(self, model, inputs, *args, **kwargs):
        logits = model(**{name: value for name, value in inputs.items() if name != "labels"})
        wanted = LabelSmoother(0.3)({"logits": logits.logits}, inputs["labels"], shift_labels=True)
        loss = compute_loss(self, model, dict(inputs), *args, **kwargs)
        losses.append((loss.item(), wanted.item()))
        return loss

    from modeling_omni_vision.training.language import LanguageTrainer

    compute_loss = LanguageTrainer.compute_loss
    monkeypatch.setattr(LanguageTrainer, "compute_loss", compare)
    task.run("smoothed", label_smoothing_factor=0.3, max_steps=2)
    # Sums over other numbers of logits, in float32.
    assert all(loss == pytest.approx(wanted, rel=1e-5) for loss, wanted in losses)
    assert len(losses) == 2


def test_a_second_ctrl_c_ends_at_once_unless_it_is_the_same_press(capfd):
    with StopOnSignal() as stop:
        for _ in range(2):  # a terminal and a launcher pass on the same one
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested == signal.SIGINT
        time.sleep(0.6)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err.count("Stopping after this step") == 1


def test_signals_are_left_alone_outside_the_main_thread(caplog):
    handler = signal.getsignal(signal.SIGINT)

    def train():
        with StopOnSignal():
            assert signal.getsignal(signal.SIGINT) is handler

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert "not caught" in caplog.text


SCRIPT = """
import sys
from transformers import TrainerCallback
from modeling_omni_vision.cli.train import main
from modeling_omni_vision.training.skeleton import SkeletonTrainer

class Ready(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            print("training", flush=True)

train = SkeletonTrainer.train
def with_sign(self, *args, **kwargs):
    self.add_callback(Ready())
    return train(self, *args, **kwargs)
SkeletonTrainer.train = with_sign
main(sys.argv[1:])
"""


def test_ctrl_c_in_a_terminal_ends_in_one_line_though_it_reaches_the_data_workers_too(tiny_source, tmp_path):
    config = json.dumps({"image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 16})
    options = ["--dataset", str(tiny_source), "--config", config, "--output_dir", str(tmp_path / "run")]
    endless = ["--max_steps", "1000000", "--eval_strategy", "no", "--save_strategy", "no", "--disable_tqdm", "true"]
    workers = ["--dataloader_num_workers", "2", "--dataloader_persistent_workers", "true"]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *options, *endless, *workers],
        start_new_session=True,  # a terminal sends Ctrl-C to the whole group
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert next(line for line in process.stdout if "training" in line)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in said
    assert said.count("Continue with --resume_from_checkpoint true") == 1
    assert said.count("Stopping after this step") == 1
    assert list((tmp_path / "run").glob("checkpoint-*/trainer_state.json"))

"""Training that ends after a time ends its learning rate too."""

from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl, get_scheduler

from modeling_omni_vision.training import callbacks
from modeling_omni_vision.training.arguments import OmniVisionTrainingArguments


def trained(monkeypatch, seconds_of_a_step, kind="linear", kept=None, steps=100, **options):
    """Learning rates of up to a hundred steps with a limit of 50 seconds, and what the last of them asks for."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: clock.now)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(kind, optimizer, num_warmup_steps=10, num_training_steps=100)
    limit, control = callbacks.TimeLimitCallback(50.0, scheduler), TrainerControl()
    args = SimpleNamespace(**{"eval_strategy": "steps", "save_strategy": "steps", "world_size": 1, **options})
    state, rates = SimpleNamespace(max_steps=100, stateful_callbacks={} if kept is None else kept), []
    limit.on_train_begin(args, state)
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        clock.now += seconds_of_a_step
        limit.on_pre_optimizer_step(args, state)
        optimizer.step()
        scheduler.step()
        limit.on_step_end(args, state, control)
        if control.should_training_stop:
            break
    return [*rates, scheduler.get_last_lr()[0]], control


def test_slow_steps_are_fewer_and_go_through_the_whole_shape_of_the_learning_rate(monkeypatch):
    rates, control = trained(monkeypatch, 2.0)
    assert len(rates) == 26
    assert max(rates) > 0.9
    assert rates[13] == pytest.approx((100 - 52) / 90)
    assert rates[-1] == 0
    assert control.should_evaluate
    assert control.should_save


def test_fast_steps_are_all_done_as_without_a_limit(monkeypatch):
    rates, control = trained(monkeypatch, 0.1)
    plain, _ = trained(monkeypatch, 0.0)
    assert rates == plain
    assert not control.should_training_stop


def test_what_is_never_evaluated_or_saved_is_not_at_the_end_either(monkeypatch):
    _, control = trained(monkeypatch, 2.0, eval_strategy="no", save_strategy="no")
    assert control.should_training_stop
    assert not control.should_evaluate
    assert not control.should_save


def test_a_resumed_run_has_what_is_left_of_the_time(monkeypatch):
    kept = {}
    trained(monkeypatch, 2.0, kept=kept, steps=20)
    rates, control = trained(monkeypatch, 2.0, kept=kept)
    assert len(rates) == 6
    assert control.should_training_stop


def test_processes_end_together_by_the_slowest_clock(monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda elapsed, operation: elapsed.fill_(50.0))
    _, control = trained(monkeypatch, 0.0, world_size=2, device="cpu")
    assert control.should_training_stop


@pytest.mark.parametrize("minutes", [-1.0, float("nan")])
def test_a_limit_that_is_no_time_is_refused(tmp_path, minutes):
    with pytest.raises(ValueError, match=r"max_minutes"):
        OmniVisionTrainingArguments(output_dir=str(tmp_path / "run"), max_minutes=minutes)

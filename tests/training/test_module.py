from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision, Precision
from torch import nn

from fomo_ssl.core.errors import NonFiniteLossError
from fomo_ssl.core.types import CropBatch, Views, ViewSpec
from fomo_ssl.encoders import create_encoder
from fomo_ssl.objectives.base import Encoded, Objective, ObjectiveOutput
from fomo_ssl.training.module import PretrainModule
from fomo_ssl.training.optim import OptimConfig
from fomo_ssl.training.source import SampleStream
from fomo_ssl.training.trainer import quiet


class Mean(Objective):
    """The mean embedding, times a factor that a test sets."""

    def __init__(self) -> None:
        super().__init__(create_encoder("resenc_t", channels=(4, 8), blocks=(1, 1)), ViewSpec())
        self.factor = 1.0
        self.steps: list[int] = []

    def score(self, encoded: list[Encoded], views: Views, step: int) -> ObjectiveOutput:
        loss = encoded[0].embedding.mean() * self.factor
        return ObjectiveOutput(loss, {"mean/loss": loss.detach()}, {"step": torch.tensor(float(step))})

    def after_step(self, step: int) -> None:
        self.steps.append(step)


def batch_of(n: int) -> CropBatch:
    return CropBatch(
        images=[torch.zeros(n, 1, 8, 8, 8, dtype=torch.int16)],
        scale=torch.ones(1, n),
        offset=torch.zeros(1, n),
        origins=torch.zeros(1, n, 3, dtype=torch.int64),
        keys=torch.arange(n),
        indices=torch.arange(n),
        rows=torch.arange(n)[None],
        spacing=torch.ones(n, 3),
        sequences=torch.zeros(1, n, dtype=torch.int64),
        paired=torch.ones(n, dtype=torch.bool),
    )


def as_views(batch: CropBatch) -> Views:
    torch.manual_seed(0)
    image = torch.randn(len(batch), 1, 8, 8, 8)
    return Views([image], [image], batch.keys, batch.spacing, batch.sequences, batch.paired)


@pytest.fixture
def module() -> PretrainModule:
    torch.manual_seed(0)
    made = PretrainModule(Mean(), as_views, OptimConfig(clip=0.5), 10, lambda batch: "site/sub_1/ses_1/t1")
    made._trainer = SimpleNamespace(global_step=3, precision_plugin=Precision())  # all that a step asks of the trainer
    return made


def test_a_batch_goes_to_a_gpu_without_a_wait_for_each_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning leaves it to whoever moves himself, and copies of pinned crops would be waited for one by one."""
    asked: dict[str, bool] = {}

    def to(self: CropBatch, device: torch.device, non_blocking: bool = False) -> CropBatch:
        asked[device.type] = non_blocking
        return self

    monkeypatch.setattr(CropBatch, "to", to)
    module = PretrainModule(Mean(), lambda batch: batch, OptimConfig(), 2, lambda batch: "")  # type: ignore[arg-type,return-value]
    for device in ("cuda", "cpu"):
        module._apply_batch_transfer_handler(batch_of(2), torch.device(device))
    assert asked == {"cuda": True, "cpu": False}


def test_a_step_reports_loss_terms_and_health(module: PretrainModule) -> None:
    loss = module.training_step(batch_of(2), 0)
    assert loss.requires_grad
    assert set(module.metrics) == {"loss", "mean/loss", "step", "embedding_std"}
    assert not any(value.requires_grad for value in module.metrics.values())
    assert float(module.metrics["step"]) == 3.0


def test_non_finite_loss_names_the_scans(module: PretrainModule) -> None:
    module.objective.factor = float("nan")
    with pytest.raises(NonFiniteLossError, match=r"the loss is nan after 0 samples, on site/sub_1/ses_1/t1"):
        module.training_step(batch_of(2), 0)


def test_non_finite_gradient_is_caught_before_it_moves_the_weights(module: PretrainModule) -> None:
    module.training_step(batch_of(2), 0)
    parameter = next(module.objective.parameters())
    parameter.grad = torch.full_like(parameter, torch.inf)
    optimizer = torch.optim.SGD(module.objective.parameters(), lr=1.0)
    with pytest.raises(NonFiniteLossError, match="gradient"):
        module.configure_gradient_clipping(optimizer)


@pytest.mark.parametrize("clip", [0.5, 0.0])
def test_gradients_are_clipped_by_their_norm(module: PretrainModule, clip: float) -> None:
    module.optim = OptimConfig(clip=clip)
    module.objective.factor = 1e4
    module.training_step(batch_of(2), 0).backward()
    parameters = [p for p in module.objective.parameters() if p.grad is not None]
    before = torch.stack([p.grad.norm() for p in parameters]).norm()
    module.configure_gradient_clipping(torch.optim.SGD(module.objective.parameters(), lr=0.25))
    after = torch.stack([p.grad.norm() for p in parameters]).norm()
    torch.testing.assert_close(after, torch.tensor(0.5) if clip else before)
    torch.testing.assert_close(module.metrics["grad_norm"], before)
    assert float(module.metrics["lr"]) == 0.25


def test_samples_and_teachers_move_with_the_step(module: PretrainModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning.LightningModule.optimizer_step", lambda *args, **kwargs: None)
    for n in (2, 3):
        module.training_step(batch_of(n), 0)
        module.optimizer_step()
    assert module.samples_seen == 5
    assert module.objective.steps == [3, 3]


def test_the_state_goes_through_a_checkpoint(module: PretrainModule) -> None:
    module.samples_seen = 7
    state: dict[str, Any] = {}
    module.on_save_checkpoint(state)
    expected = torch.rand(3)
    other = PretrainModule(Mean(), as_views, OptimConfig(), 10, lambda batch: "")
    other.on_load_checkpoint(state)
    torch.manual_seed(99)
    other.on_train_start()
    assert other.samples_seen == 7
    assert torch.equal(torch.rand(3), expected)


def test_optimizer_holds_every_trainable_parameter_once(module: PretrainModule) -> None:
    optimizer = module.configure_optimizers()["optimizer"]
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in nn.Module.parameters(module.objective) if p.requires_grad)


class Product(Mean):
    """The mean of a product that runs in float32 whatever the precision, as the products of contrasts do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(512, 64, bias=False)

    def score(self, encoded: list[Encoded], views: Views, step: int) -> ObjectiveOutput:
        with torch.autocast("cpu", enabled=False):
            return ObjectiveOutput(self.layer(views.images[0].flatten(1)).square().mean())


def test_micro_batches_go_backward_in_the_precision_of_their_forward_pass(module: PretrainModule) -> None:
    """All but the last do so inside the step, where autocast would round what is float32."""
    module.objective, module.accumulate = Product(), 2
    module._trainer.strategy = SimpleNamespace(backward=lambda loss, optimizer: loss.backward())
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            loss = module.training_step(batch_of(4), 0)
        loss.backward()
        gradients.append(module.objective.layer.weight.grad.clone())
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def fit_at_16_bits(module: PretrainModule, scale: float, steps: int) -> torch.amp.GradScaler:
    """Train by Lightning's loop with a scaled loss, as on a GPU without bfloat16."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    with quiet():
        trainer = L.Trainer(
            accelerator="cpu", plugins=[MixedPrecision("16-mixed", "cpu", scaler)], max_steps=steps, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, SampleStream(lambda first: [batch_of(2)] * steps, steps, 0))
    return scaler


@pytest.mark.parametrize("fused", [False, True])
def test_a_scaled_gradient_is_clipped_by_its_true_norm(
    module: PretrainModule, monkeypatch: pytest.MonkeyPatch, fused: bool
) -> None:
    """A fused optimizer, as on GPUs, undoes the scale in its step alone, after the clipping."""
    plain = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda *args, **kwargs: plain(*args, **(kwargs | {"fused": fused})))
    module.training_step(batch_of(2), 0).backward()
    norm = torch.stack([p.grad.norm() for p in module.objective.parameters() if p.grad is not None]).norm()
    fit_at_16_bits(module, 2.0**10, 1)
    torch.testing.assert_close(module.metrics["grad_norm"], norm, rtol=0.05, atol=0.0)


def test_a_gradient_that_overflows_at_16_bits_lowers_the_scale_and_is_skipped(module: PretrainModule) -> None:
    before = [p.clone() for p in module.objective.parameters()]
    scaler = fit_at_16_bits(module, 2.0**60, 1)
    assert scaler.get_scale() == 2.0**59
    assert all(torch.equal(p, old) for p, old in zip(module.objective.parameters(), before, strict=True))


def test_a_gradient_that_overflows_at_any_scale_stops_the_run(module: PretrainModule) -> None:
    next(module.objective.parameters()).register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(NonFiniteLossError, match=r"gradient is (inf|nan) after 4 samples"):
        fit_at_16_bits(module, 4.0, 5)

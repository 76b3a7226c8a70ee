from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from fomo_ssl.objectives.gather import gather_rows
from fomo_ssl.objectives.losses import contrast_logits

_RANKS, _PER_RANK, _DIM = 2, 3, 5


def _rows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2 * _RANKS * _PER_RANK, _DIM, generator=generator)


def _loss(rows: torch.Tensor) -> torch.Tensor:
    """NT-Xent of this process's rows, first views then second views, against the rows of all."""
    candidates, own = gather_rows(rows)
    return F.cross_entropy(contrast_logits(rows, candidates, own, 0.2), own.roll(len(rows) // 2))


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=_RANKS)
    mine = _rows().chunk(_RANKS)[rank].clone().requires_grad_()
    loss = _loss(mine)
    loss.backward()
    torch.save({"loss": loss.detach(), "grad": mine.grad}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_without_a_process_group_rows_come_back() -> None:
    rows = _rows()
    gathered, own = gather_rows(rows)
    assert gathered is rows
    assert torch.equal(own, torch.arange(len(rows)))


def test_two_ranks_give_the_gradient_of_one_process(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(str(tmp_path),), nprocs=_RANKS)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(_RANKS)]

    rows = _rows().requires_grad_()
    own = torch.arange(len(rows))
    # The partner lies half a rank's rows away, within the rank.
    partner = torch.cat([chunk.roll(_PER_RANK) for chunk in own.chunk(_RANKS)])
    whole = F.cross_entropy(contrast_logits(rows, rows, own, 0.2), partner)
    whole.backward()

    assert torch.allclose(torch.stack([part["loss"] for part in parts]).mean(), whole)
    # DDP averages over ranks what each rank's backward gave.
    assert torch.allclose(torch.cat([part["grad"] for part in parts]) / _RANKS, rows.grad, atol=1e-6)

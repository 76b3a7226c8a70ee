"""Memory that loader processes write crops into and the training process reads them from, without a copy between.

A batch of crops that travels through a queue is written, copied into a new shared segment, mapped and faulted in page
by page: together dearer than decompressing it. The ring is allocated once, before the processes fork, as an anonymous
shared map: that is not bounded by the size of /dev/shm, and nothing is left behind by a process that is killed.
"""

import contextlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int16
from torch import Tensor

from fomo_ssl.core.errors import RunError
from fomo_ssl.core.types import Triple


@dataclass(frozen=True)
class Ring:
    """Slots for batches; batch k of an epoch lives in slot k modulo their number.

    Attributes:
        slots: crops of every slot, view and sample, in memory that forked processes share.
    """

    slots: Int16[Tensor, "s v b 1 x y z"]

    @classmethod
    def allocate(cls, n_slots: int, n_views: int, batch_size: int, crop: Triple) -> "Ring":
        """Reserve the memory; pages are taken when they are first written."""
        shape = (n_slots, n_views, batch_size, 1, *crop)
        size = 2 * n_slots * n_views * batch_size * crop[0] * crop[1] * crop[2]
        return cls(torch.frombuffer(mmap.mmap(-1, size), dtype=torch.int16).view(shape))

    @contextlib.contextmanager
    def pinned(self) -> Iterator[None]:
        """Page-lock the memory for as long as batches are read, so that copies to a GPU need no staging buffer.

        Memory that is given back while it is locked stays taken, and the driver refuses to lock what comes to lie at
        its address next: the ring of the next run of a process, as often as not.

        Raises:
            RunError: the driver refuses.
        """
        size = self.slots.numel() * self.slots.element_size()
        runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        try:
            torch.cuda.check_error(int(runtime.cudaHostRegister(self.slots.data_ptr(), size, 0)))
        except RuntimeError as error:
            what = f"{size / 2**30:.1f} GiB of memory for crops cannot be page-locked ({str(error).splitlines()[0]})"
            raise RunError(what, way_out="Use fewer data.workers, smaller batches or smaller crops") from error
        try:
            yield
        finally:
            # A step that was interrupted may be copying still. A device that has failed says so elsewhere.
            with contextlib.suppress(RuntimeError):
                torch.cuda.synchronize()
            runtime.cudaHostUnregister(self.slots.data_ptr())

    def views(self, batch: int, samples: int) -> list[Int16[Tensor, "b 1 x y z"]]:
        """The crops of one batch, a tensor per view; writing into them writes into the ring."""
        return list(self.slots[batch % len(self.slots), :, :samples])

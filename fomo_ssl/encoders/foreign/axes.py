"""Weights of a network whose arrays lie in another order of axes, changed so that they give the same numbers on ours.

nnU-Net and nnssl hold arrays as z y x and this library as x y z. A network applied to a transposed image answers with
transposed maps once its kernels, its position table and the parts of queries and keys that turn with each axis are
transposed too. So nothing is lost, and no image has to be transposed.

`order` says for each axis of the result which axis of the input it is, as in `Tensor.permute`.
"""

from torch import Tensor

from fomo_ssl.core.types import Triple


def inverse(order: Triple) -> Triple:
    """The order that undoes `order`."""
    x, y, z = (order.index(axis) for axis in range(3))
    return x, y, z


def turn_kernel(weight: Tensor, order: Triple) -> Tensor:
    """A convolution's weight (o, i, k0, k1, k2) for turned maps."""
    x, y, z = order
    return weight.permute(0, 1, 2 + x, 2 + y, 2 + z).contiguous()


def table_to_grid(table: Tensor, grid: Triple, order: Triple) -> Tensor:
    """A position table (1, n, d), flat over `grid` with its first axis slowest, as a turned grid (1, d, x, y, z)."""
    return turn_kernel(table.transpose(1, 2).reshape(1, -1, *grid), order)


def grid_to_table(positions: Tensor, order: Triple) -> Tensor:
    """A position grid (1, d, x, y, z) turned and as a table (1, n, d), first axis slowest."""
    return turn_kernel(positions, order).flatten(2).transpose(1, 2).contiguous()


def turn_rotary(projection: Tensor, heads: int, order: Triple) -> Tensor:
    """Weight (d, d) or bias (d,) of queries or keys, whose heads hold one third of their channels for each axis."""
    thirds = projection.reshape(heads, 3, -1, *projection.shape[1:])
    return thirds[:, list(order)].reshape(projection.shape)

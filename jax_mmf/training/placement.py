"""Placement of the arrays of a run: on one device, or spread over the devices of a mesh."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_mmf.core import default_device, is_typed_key, of_all_processes, warn, with_auto_axes
from jax_mmf.learning import (
    BlockCoordinateDescent,
    OnlineFactorization,
    State,
    SubsampledStatistics,
    SubsetPerShare,
    map_arrays,
)
from jax_mmf.typing import Array, HostArray

_DATA, _FEATURES = "data", "features"
_NO_MESH = Mesh(np.empty((), object), ())


@dataclass(frozen=True)
class Placement:
    """Placement of samples ``(b, p)``, and of states.

    On a mesh, the samples of a mini-batch are spread over its axis ``"data"``, and the features of samples, dictionary
    and moments over its axis ``"features"``. A mesh may have only one of these axes. What can't be divided evenly is
    padded with zeros.

    Attributes:
      mesh: None for one device. Its axes may be of any type.
      n_features: p.
    """

    mesh: Mesh | None
    n_features: int

    def __post_init__(self) -> None:
        if self.mesh is None:
            return
        if not isinstance(self.mesh, Mesh) or self.mesh.empty:
            raise TypeError(f"mesh must be a jax.sharding.Mesh, such as jax.make_mesh makes; got {self.mesh!r}")
        others = [name for name, size in self.mesh.shape.items() if name not in (_DATA, _FEATURES) and size > 1]
        if others:
            raise ValueError(
                f"mesh must have axes {_DATA!r} and {_FEATURES!r}, or one of them; got {tuple(self.mesh.axis_names)}"
            )
        # The programs name no axes in their types, which explicit axes would require.
        object.__setattr__(self, "mesh", with_auto_axes(self.mesh))

    def shares(self, axis: str) -> int:
        """Return the number of devices that an axis is spread over."""
        return 1 if self.mesh is None else self.mesh.shape.get(axis, 1)

    @property
    def width(self) -> int:
        """Number of features, including the padding."""
        return _up(self.n_features, self.shares(_FEATURES))

    def height(self, n_samples: int) -> int:
        """Return the number of rows of a mini-batch, including the padding."""
        return _up(n_samples, self.shares(_DATA))

    @contextmanager
    def active(self) -> Iterator[None]:
        """Trace and compile programs for the mesh in this block, also in threads that start in it."""
        if self.mesh is None:
            yield
        else:
            with jax.set_mesh(self.mesh):
                yield

    @contextmanager
    def left(self) -> Iterator[None]:
        """Compute on one device in this block, even inside of a block of `active`."""
        if self.mesh is None:
            yield
        else:
            with jax.set_mesh(_NO_MESH):
                yield

    # Samples

    def own(self, n_rows: int, n_columns: int) -> tuple[slice, slice]:
        """Return the rows and columns of a mini-batch that this process reads."""
        if self.mesh is None or jax.process_count() == 1:
            return slice(0, n_rows), slice(0, n_columns)
        indices = self._samples.addressable_devices_indices_map((n_rows, n_columns)).values()
        rows, columns = zip(*indices, strict=True)
        return _hull(rows, n_rows), _hull(columns, n_columns)

    def put_samples(self, own: HostArray, n_rows: int, n_columns: int) -> Array:
        """Make the mini-batch ``(n_rows, n_columns)`` from the part that this process has read."""
        if self.mesh is None:
            return jax.device_put(own)
        rows, columns = self.own(n_rows, n_columns)

        def part(index: Any) -> HostArray:
            found = (_hull([index[0]], n_rows), _hull([index[1]], n_columns))
            return own[_shifted(found[0], rows.start), _shifted(found[1], columns.start)]

        return jax.make_array_from_callback((n_rows, n_columns), self._samples, part)

    def put_on_device(self, samples: Array) -> Array:
        """Spread a mini-batch that is on a device; its rows are padded already."""
        if self.mesh is None:
            return on_one_device(samples)
        missing = self.width - self.n_features if samples.shape[1] == self.n_features else 0
        return jax.device_put(jnp.pad(samples, ((0, 0), (0, missing))), self._samples)

    def put_rows(self, rows: Any) -> Array:
        """Spread the features of rows ``(m, p)`` that every process has: of held-out samples, or of atoms."""
        if self.mesh is None:
            return jnp.asarray(rows)
        padded = np.pad(np.asarray(rows), ((0, 0), (0, self.width - self.n_features)))
        return self._put(padded, "kp")

    def put_whole(self, tree: Any) -> Any:
        """Copy arrays that every process has to all devices."""
        return tree if self.mesh is None else jax.tree.map(lambda array: self._put(np.asarray(array), ""), tree)

    # States

    def put_state(self, state: State) -> State:
        """Spread a state that every process has."""
        if self.mesh is None:
            return state
        missing = self.width - self.n_features

        def put(_: str, axes: str | None, array: Any) -> Array:
            host = np.asarray(array)
            if missing and axes and axes.endswith("p"):
                host = np.pad(host, [(0, 0)] * (host.ndim - 1) + [(0, missing)])
            return self._put(host, axes)

        return map_arrays(put, state)._replace(key=self._put_key(state.key))

    def constrained(self, state: State) -> State:
        """Constrain a state to its placement, inside of traced functions."""
        if self.mesh is None:
            return state
        keep = lambda _, axes, array: jax.lax.with_sharding_constraint(array, self._sharding(axes))  # noqa: E731
        return map_arrays(keep, state)

    def collected(self, tree: Any) -> Any:
        """Return a pytree, such as a state, as arrays on one device of this process. All processes must call this."""
        if self.mesh is None:
            return tree
        return jax.tree.map(_collected, tree)

    def has_all_of(self, state: State) -> bool:
        """Whether this process can collect a state without the others."""
        return all(array.is_fully_addressable or array.is_fully_replicated for array in jax.tree.leaves(state))

    def without_padding(self, state: State) -> State:
        """Remove the padding of the features from a state."""
        if self.width == self.n_features:
            return state
        cut = lambda _, axes, array: array[..., : self.n_features] if (axes or "").endswith("p") else array  # noqa: E731
        return map_arrays(cut, state)

    def _put(self, array: HostArray, axes: str | None) -> Array:
        return jax.make_array_from_callback(array.shape, self._sharding(axes), lambda index: array[index])

    def _put_key(self, key: Any) -> Any:
        if not is_typed_key(key):
            return self._put(np.asarray(key), "")
        data = self._put(np.asarray(jax.random.key_data(key)), "")
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))

    def _sharding(self, axes: str | None) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(
            self.mesh, PartitionSpec(*(self._axis(_FEATURES) if a == "p" else None for a in axes or ""))
        )

    @property
    def _samples(self) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, PartitionSpec(self._axis(_DATA), self._axis(_FEATURES)))

    def _axis(self, name: str) -> str | None:
        assert self.mesh is not None
        return name if name in self.mesh.axis_names else None


def adapted(solver: OnlineFactorization, mesh: Mesh | None) -> OnlineFactorization:
    """Return a solver that draws a subset of the features of each device.

    Warns:
      UserWarning: if the solver updates one atom after another, and the features are spread over devices.
    """
    shares = Placement(mesh, 1).shares(_FEATURES)
    if shares == 1:
        return solver
    if isinstance(solver.dictionary_update, BlockCoordinateDescent):
        warn(
            "BlockCoordinateDescent updates one atom after another, and devices that share the features wait for each "
            "other after each; dictionary_update=ProjectedGradient(4) updates all atoms together"
        )

    def per_share(subset: Any) -> Any:
        whole = subset.reduction == 1 or isinstance(subset, SubsetPerShare)
        return subset if whole else SubsetPerShare(subset, shares)

    statistics = solver.statistics
    if isinstance(statistics, SubsampledStatistics):
        statistics = replace(statistics, subset=per_share(statistics.subset))
    return replace(solver, subset=per_share(solver.subset), statistics=statistics)


def on_one_device(samples: Array) -> Array:
    """Send rows of an array that is spread over devices to the default one; others stay where they are."""
    return samples if len(samples.sharding.device_set) == 1 else jax.device_put(samples, default_device())


def any_process(flag: bool) -> bool:
    """Whether a flag is true in any process of the run: all processes then make the same decision."""
    return flag if jax.process_count() == 1 else bool(of_all_processes(np.array(flag)).any())


def _collected(array: Any) -> Any:
    if is_typed_key(array):
        return jax.random.wrap_key_data(_collected(jax.random.key_data(array)), impl=jax.random.key_impl(array))
    if not isinstance(array, jax.Array) or len(array.sharding.device_set) == 1:
        return array
    if not array.is_fully_addressable and not array.is_fully_replicated:
        array = of_all_processes(array)
    return jax.device_put(np.asarray(array))


def _up(count: int, factor: int) -> int:
    return -(-count // factor) * factor


def _hull(slices: Any, length: int) -> slice:
    """Return the range that some slices of an axis cover."""
    bounds = [part.indices(length)[:2] for part in slices]
    return slice(min(first for first, _ in bounds), max(last for _, last in bounds))


def _shifted(part: slice, by: int) -> slice:
    return slice(part.start - by, part.stop - by)

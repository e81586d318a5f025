"""Foundations that are independent of the method: pytrees, checks, linear algebra, random keys, settings of JAX."""

from jax_mmf.core.compatibility import of_all_processes, one_kernel, partitioned
from jax_mmf.core.compilation_cache import enable_compilation_cache
from jax_mmf.core.foreign import as_array, feature_names, in_native_order, is_in_memory, is_scipy_sparse, text_of
from jax_mmf.core.linalg import (
    Take,
    all_finite,
    cho_solve,
    cholesky,
    cholesky_shifted,
    in_tiles,
    inner_products,
    largest_eigenvalue,
    map_rows,
    matmul,
    power_of_two_below,
    self_product,
    solve_shifted,
)
from jax_mmf.core.memory import aligned_empty, default_device, transfer_buffer
from jax_mmf.core.mesh import by_platform, on_mesh, with_auto_axes
from jax_mmf.core.padding import filled_up
from jax_mmf.core.projection import nearest
from jax_mmf.core.pytrees import (
    configuration_name,
    configuration_named,
    copied,
    register_configuration,
    short,
    short_fields,
)
from jax_mmf.core.random import HostStream, Stream, check_key, host_generator, is_typed_key, stream_key
from jax_mmf.core.thread_settings import n_cores, with_settings_of_this_thread
from jax_mmf.core.user_warnings import renamed, warn, warn_of_blas_threads
from jax_mmf.core.validation import (
    as_computing_dtype,
    as_real_array,
    check_choice,
    check_count,
    check_methods,
    check_process,
    check_real,
    check_real_dtype,
    check_shape,
    computing_dtype,
)

__all__ = [
    "HostStream",
    "Stream",
    "Take",
    "aligned_empty",
    "all_finite",
    "as_array",
    "as_computing_dtype",
    "as_real_array",
    "by_platform",
    "check_choice",
    "check_count",
    "check_key",
    "check_methods",
    "check_process",
    "check_real",
    "check_real_dtype",
    "check_shape",
    "cho_solve",
    "cholesky",
    "cholesky_shifted",
    "computing_dtype",
    "configuration_name",
    "configuration_named",
    "copied",
    "default_device",
    "enable_compilation_cache",
    "feature_names",
    "filled_up",
    "host_generator",
    "in_native_order",
    "in_tiles",
    "inner_products",
    "is_in_memory",
    "is_scipy_sparse",
    "is_typed_key",
    "largest_eigenvalue",
    "map_rows",
    "matmul",
    "n_cores",
    "nearest",
    "of_all_processes",
    "on_mesh",
    "one_kernel",
    "partitioned",
    "power_of_two_below",
    "register_configuration",
    "renamed",
    "self_product",
    "short",
    "short_fields",
    "solve_shifted",
    "stream_key",
    "text_of",
    "transfer_buffer",
    "warn",
    "warn_of_blas_threads",
    "with_auto_axes",
    "with_settings_of_this_thread",
]

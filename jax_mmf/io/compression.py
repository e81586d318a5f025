"""Compression of HDF5 data sets: gzip is part of HDF5, and the package hdf5plugin adds zstd and blosc2."""

from contextlib import suppress
from types import ModuleType
from typing import Any

import h5py

from jax_mmf.core import check_choice
from jax_mmf.io.bad_file import MissingFilterError

COMPRESSIONS = ("none", "auto", "gzip", "zstd", "blosc2")
_ADVICE = "pip install 'jax-mmf[convert]'"


def chosen_compression(name: str | None) -> str | None:
    """Return the compression for a name. "auto" is zstd if hdf5plugin is installed, and gzip otherwise.

    Raises:
      ValueError: for other names.
      ImportError: for zstd and blosc2 without hdf5plugin.
    """
    name = "none" if name is None else name
    check_choice("compression", name, COMPRESSIONS)
    if name == "auto":
        return "gzip" if _plugin() is None else "zstd"
    if name in ("zstd", "blosc2") and _plugin() is None:
        raise ImportError(f"compression={name!r} needs the package hdf5plugin: {_ADVICE}; or use 'gzip'")
    return None if name == "none" else name


def filters_of(compression: str | None, *, checksums: bool) -> dict[str, Any]:
    """Return the arguments of `h5py.Group.create_dataset` for a compression and for checksums of the chunks."""
    checked = {"fletcher32": checksums}
    if compression == "gzip":
        return checked | {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    if compression == "zstd":
        return checked | {"shuffle": True, **_plugin().Zstd(clevel=3)}  # type: ignore[union-attr]
    return checked | (dict(_plugin().Blosc2(cname="zstd", clevel=3)) if compression else {})  # type: ignore[union-attr]


def compression_of(dataset: h5py.Dataset) -> str | None:
    """Return the name of the compression of a data set, or None."""
    settings = dataset.id.get_create_plist()
    names = {h5py.h5z.FILTER_DEFLATE: "gzip", h5py.h5z.FILTER_LZF: "lzf", 32015: "zstd", 32026: "blosc2"}
    plain = (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
    codes = [settings.get_filter(i)[0] for i in range(settings.get_nfilters())]
    return ", ".join(names.get(code, f"filter {code}") for code in codes if code not in plain) or None


def check_readable(dataset: h5py.Dataset) -> None:
    """Check that the chunks of a data set can be decoded, and load hdf5plugin if they need it.

    Raises:
      MissingFilterError: if they need hdf5plugin and it is not installed, or if they need another filter.
    """
    settings = dataset.id.get_create_plist()
    for code, _, _, name in map(settings.get_filter, range(settings.get_nfilters())):
        if not h5py.h5z.filter_avail(code) and (_plugin() is None or not h5py.h5z.filter_avail(code)):
            text = name.decode(errors="replace").partition(";")[0]
            raise MissingFilterError(
                f"data set {dataset.name!r} of {dataset.file.filename} is compressed by {text or code}, which needs "
                f"the package hdf5plugin: {_ADVICE}"
            )


def _plugin() -> ModuleType | None:
    """Return the package hdf5plugin, which registers its filters when it is imported, or None."""
    with suppress(ImportError):
        import hdf5plugin

        return hdf5plugin
    return None

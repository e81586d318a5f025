"""Changes of model files, for tests of what readers say to them."""

from contextlib import contextmanager

import h5py


@contextmanager
def changed(path):
    """Open a model file to change it, and take its checksum out, so that it is like files of earlier versions."""
    with h5py.File(path, "r+") as file:
        del file.attrs["checksum"]
        yield file
    without_line(path)


def without_line(path):
    """Remove the line with the checksum, and leave what tells that there must be one."""
    with path.open("r+b") as file:
        assert file.read(12) == b"jax-mmf file"
        file.seek(0)
        file.write(bytes(512))

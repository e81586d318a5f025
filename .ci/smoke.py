"""What an installed wheel must do: learn a dictionary, save and load it, and have its types and its version."""

import tempfile
from importlib import metadata, resources
from pathlib import Path

import jax
import numpy as np

import jax_mmf as mmf

x = mmf.datasets.make_sparse_codes(jax.random.key(0), n_samples=500, n_features=64, n_components=20).x
solver = mmf.OnlineFactorization(n_components=20, penalty=mmf.Lasso(0.1), constraint=mmf.L2Ball())
result = mmf.fit(solver, x, key=jax.random.key(1), n_epochs=2, held_out=0.1)
codes = mmf.encode(result.dictionary, x, solver.penalty)
assert codes.shape == (500, 20)
assert np.isfinite(result.objective)
with tempfile.TemporaryDirectory() as folder:
    mmf.save_model(Path(folder) / "model.h5", result.solver, result.state, result.history)
    saved = mmf.load_model(Path(folder) / "model.h5")
    assert np.array_equal(saved.state.dictionary, result.dictionary)
assert mmf.__version__ == metadata.version("jax-mmf")
assert resources.files("jax_mmf").joinpath("py.typed").is_file()
print(f"jax_mmf {mmf.__version__} with jax {jax.__version__}: objective {result.objective:.4f}")

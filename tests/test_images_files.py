"""Files of images, the commands that use them, and figures."""

import sys

import h5py
import jax
import numpy as np
import pytest
import tifffile
from matplotlib.figure import Figure
from PIL import Image
from scipy.io import savemat

from jax_mmf import cli, images
from jax_mmf.images import read_image, write_image
from jax_mmf.io import BadFileError
from jax_mmf.plotting import plot_abundance, plot_patches, plot_spectra

G = np.random.default_rng(0)
GRAY = G.integers(0, 256, (6, 9), "uint8")
RGB = G.integers(0, 256, (6, 9, 3), "uint8")
CUBE = G.random((6, 9, 5)).astype("float32")


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """The command in this process: exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_MMF_CACHE", "0")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["jax-mmf", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out = capsys.readouterr()
        return caught.value.code, out.out, out.err

    return call


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("a.png", GRAY),
        ("a.png", RGB),
        ("a.png", GRAY.astype("uint16") * 257),
        ("a.bmp", RGB),
        ("a.tif", GRAY),
        ("a.tiff", RGB),
        ("a.tif", CUBE),
        ("a.npy", CUBE.astype(">f8")),
    ],
)
def test_images_are_read_as_they_were_written(name, image, tmp_path):
    write_image(tmp_path / name, image)
    found = read_image(tmp_path / name)
    assert found.dtype == image.dtype
    np.testing.assert_array_equal(found, image)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_files_of_other_programs(tmp_path):
    tifffile.imwrite(
        tmp_path / "planar.tif", np.moveaxis(CUBE, -1, 0), photometric="minisblack", metadata={"axes": "CYX"}
    )
    np.testing.assert_array_equal(read_image(tmp_path / "planar.tif"), CUBE)
    savemat(tmp_path / "old.mat", {"scene": CUBE, "wavelengths": np.arange(5.0)})
    np.testing.assert_array_equal(read_image(tmp_path / "old.mat"), CUBE)
    with h5py.File(tmp_path / "new.mat", "w", userblock_size=512) as file:
        file["scene"] = CUBE.T  # as MATLAB stores (rows, columns, bands)
        file["other"] = CUBE.T[:2]
    head = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116) + b" " * 8 + b"\x00\x02IM"
    with (tmp_path / "new.mat").open("r+b") as file:
        file.write(head)
    np.testing.assert_array_equal(read_image(tmp_path / "new.mat", "scene"), CUBE)
    with pytest.raises(ValueError, match=r"scene \(5, 9, 6\)"):
        read_image(tmp_path / "new.mat")
    with pytest.raises(KeyError, match="no array 'nothing'"):
        read_image(tmp_path / "new.mat", "nothing")
    Image.fromarray(np.dstack([RGB, GRAY])).save(tmp_path / "alpha.png")
    with pytest.warns(UserWarning, match="alpha channel"):
        np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), RGB)
    Image.fromarray(GRAY > 99).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_image(tmp_path / "mask.png") > 0, GRAY > 99)


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
def test_envi_files(interleave, tmp_path):
    envi = pytest.importorskip("spectral.io.envi")
    envi.save_image(str(tmp_path / "scene.hdr"), CUBE, interleave=interleave, ext=".img", dtype="float32")
    np.testing.assert_array_equal(read_image(tmp_path / "scene.hdr"), CUBE)
    np.testing.assert_array_equal(read_image(tmp_path / "scene.img"), CUBE)
    (tmp_path / "scene.hdr").unlink()
    with pytest.raises(FileNotFoundError, match=r"scene\.hdr"):
        read_image(tmp_path / "scene.img")


def test_bad_files(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(BadFileError, match=r"text\.png"):
        read_image(tmp_path / "text.png")
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ValueError, match="must end in one of"):
        read_image(tmp_path / "scene.xyz")
    np.save(tmp_path / "row.npy", np.ones(3))
    with pytest.raises(ValueError, match="rows, columns"):
        read_image(tmp_path / "row.npy")
    for image in (CUBE, GRAY.astype(float), np.dstack([RGB, GRAY])):
        with pytest.raises(ValueError, match=r"write \.tif or \.npy"):
            write_image(tmp_path / "a.png", image)


def test_a_library_that_is_missing_is_named(monkeypatch, tmp_path):
    (tmp_path / "a.tif").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ImportError, match=r"tifffile.*jax-mmf\[images\]"):
        read_image(tmp_path / "a.tif")
    with pytest.raises(ImportError, match=r"tifffile.*jax-mmf\[images\]"):
        write_image(tmp_path / "b.tif", GRAY)


def test_the_mask_is_an_array_of_a_file_of_several(run, tmp_path):
    missing = GRAY[:, :9] > 128
    write_image(tmp_path / "in.png", GRAY)
    savemat(tmp_path / "both.mat", {"holes": missing.astype("uint8"), "other": GRAY})
    few = ("-k", 4, "--rounds", 1, "--patch-size", 3)
    status, _, err = run("inpaint", "in.png", "--mask", "both.mat", "-o", "out.png", *few)
    assert status != 0
    assert "holes" in err
    status, out, _ = run("inpaint", "in.png", "--mask", "both.mat", "--mask-dataset", "holes", "-o", "out.png", *few)
    assert status == 0
    assert f"{missing.mean():.1%}" in out
    found = read_image(tmp_path / "out.png")
    np.testing.assert_array_equal(found[~missing], GRAY[~missing])
    status, _, err = run("inpaint", "in.png", "--mask-dataset", "holes")
    assert status == 2
    assert "--mask-dataset needs --mask" in err


def test_denoise_and_inpaint_commands(run, tmp_path):
    truth = (127 + 100 * np.sin(np.add.outer(np.arange(32), np.arange(40)) / 9)).astype("uint8")
    write_image(tmp_path / "in.png", np.clip(truth + G.normal(0, 10, truth.shape), 0, 255).astype("uint8"))
    few = ("-k", 16, "--patch-size", 5, "--quiet")
    status, out, _ = run("denoise", "in.png", "-o", "out.png", *few)
    assert status == 0
    assert "estimated sigma" in out
    found = read_image("out.png")
    assert found.dtype == np.uint8
    assert np.abs(found - truth.astype(float)).mean() < np.abs(read_image("in.png") - truth.astype(float)).mean() / 2
    missing = G.random(truth.shape) < 0.3
    write_image(tmp_path / "mask.png", 255 * missing.astype("uint8"))
    write_image(tmp_path / "holes.png", np.where(missing, 0, truth).astype("uint8"))
    status, out, _ = run("inpaint", "holes.png", "--mask", "mask.png", "-o", "full.tif", "--rounds", 1, *few)
    assert status == 0
    found = read_image("full.tif")
    np.testing.assert_array_equal(found[~missing], truth[~missing])
    assert np.abs(found - truth.astype(float))[missing].mean() < 4


def test_unmix_command(run, tmp_path):
    shares = G.dirichlet(np.ones(3), (12, 15))
    spectra = G.random((3, 8)) + 0.1
    write_image(tmp_path / "cube.npy", shares @ spectra)
    status, out, _ = run("unmix", "cube.npy", "--endmembers", 3, "-o", "out", "--quiet")
    assert status == 0
    assert "3 endmembers" in out
    names = {"endmembers.csv", "abundances.npy", "figure.png", *(f"abundance_{i}.png" for i in (1, 2, 3))}
    assert {p.name for p in (tmp_path / "out").iterdir()} == names
    table = np.loadtxt("out/endmembers.csv", delimiter=",", skiprows=1)
    np.testing.assert_array_equal(table[:, 0], np.arange(8))
    assert images.spectral_angles(spectra, table[:, 1:].T).min(1).max() < 5
    abundances = read_image("out/abundances.npy")
    np.testing.assert_allclose(abundances.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(read_image("out/abundance_2.png"), np.rint(255 * abundances[..., 1]))


def test_wrong_calls_of_the_commands(run, tmp_path):
    write_image(tmp_path / "in.png", GRAY)
    assert run("denoise")[0] == run("denoise", "in.png", "--demo")[0] == 2
    assert run("unmix", "--endmembers", 3)[0] == run("unmix", "in.png")[0] == 2
    status, _, err = run("inpaint", "in.png")
    assert status == 2
    assert "--mask" in err
    status, _, err = run("denoise", "in.png", "-o", "in.png")
    assert status != 0
    assert "in.png" in err
    assert run("denoise", "in.png", "-o", "out.xyz")[0] == 2
    assert run("denoise", "none.png")[0] == 1
    np.testing.assert_array_equal(read_image("in.png"), GRAY)
    write_image(tmp_path / "mask.jpg", GRAY)
    status, _, err = run("inpaint", "in.png", "--mask", "mask.jpg")
    assert status == 2
    assert "JPEG" in err
    assert run("inpaint", "--demo", "--mask", "in.png")[0] == 2
    write_image(tmp_path / "abundances.npy", G.random((5, 6, 7)))
    status, _, err = run("unmix", "abundances.npy", "--endmembers", 2, "-o", ".")
    assert status == 2
    assert "overwritten" in err


def test_outputs_that_cannot_hold_the_result_are_refused_before_it_is_computed(run, tmp_path, monkeypatch):
    write_image(tmp_path / "in.npy", G.random((32, 32)))
    monkeypatch.setattr(images, "denoise", None)
    monkeypatch.setattr(images, "inpaint", None)
    for command in ("denoise", "inpaint"):
        status, _, err = run(command, "in.npy", "-o", "out.png")
        assert status == 1
        assert "can't hold an image of shape (32, 32) and float64" in err


def test_figures():
    axes = Figure().subplots(1, 3)
    spectra = G.random((7, 5))
    assert plot_spectra(spectra, ax=axes[0]) is axes[0]
    assert len(axes[0].lines) == 7
    for line, spectrum in zip(axes[0].lines, spectra, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), spectrum)
    assert len({(line.get_color(), line.get_linestyle()) for line in axes[0].lines}) == 7
    plot_spectra(spectra, wavelengths=[0.4, 0.5, 0.6, 0.7, 0.8], ax=axes[0])
    np.testing.assert_allclose(axes[0].lines[-1].get_xdata(), [0.4, 0.5, 0.6, 0.7, 0.8])
    plot_abundance(spectra, title="soil", ax=axes[1])
    np.testing.assert_array_equal(axes[1].images[0].get_array(), spectra)
    assert axes[1].images[0].get_clim() == (0, 1)
    atoms = G.standard_normal((5, 4 * 4 * 3))
    plot_patches(atoms, 4, ax=axes[2])
    sheet = axes[2].images[0].get_array()
    assert sheet.shape == (10, 15, 3)
    tile = atoms[4].reshape(4, 4, 3)
    np.testing.assert_allclose(sheet[5:9, 5:9], 0.5 + 0.5 * tile / np.abs(tile).max())
    for match, call in (
        ("patch_size=5", lambda ax: plot_patches(atoms, 5, ax=ax)),
        ("patch_size must be at least 1", lambda ax: plot_patches(atoms, 0, ax=ax)),
        ("dictionary must be", lambda ax: plot_patches(atoms[0], 4, ax=ax)),
        ("spectra must be", lambda ax: plot_spectra(spectra[0], ax=ax)),
        (r"wavelengths must be \(5,\)", lambda ax: plot_spectra(spectra, wavelengths=[1.0], ax=ax)),
        (r"abundance must be \(rows, columns\)", lambda ax: plot_abundance(atoms.reshape(5, 16, 3), ax=ax)),
    ):
        with pytest.raises(ValueError, match=match):
            call(axes[2])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["denoise", "inpaint", "unmix"])
def test_demos(name, run, tmp_path):
    pytest.importorskip("skimage")
    more = ("--endmembers", 4, "-o", "out") if name == "unmix" else ("-o", "out.png")
    status, out, err = run(name, "--demo", "--quiet", *more)
    assert status == 0, err
    if name == "denoise":
        assert float(out.split(" dB denoised")[0].split()[-1]) > 28
    jax.clear_caches()

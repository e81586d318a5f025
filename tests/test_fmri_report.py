"""The report of brain maps, surfaces, and the command."""

import base64
import gzip
import html.parser
import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("nilearn")

from fmri_data import SHAPE, cosines, make_study  # noqa: E402
from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage  # noqa: E402

from jax_mmf import cli  # noqa: E402
from jax_mmf.fmri import DictLearning, figures  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*standardize.*:FutureWarning", "ignore::DeprecationWarning:nilearn.*", "ignore::FutureWarning:nilearn.*"
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    study = make_study(tmp_path_factory.mktemp("study"))
    nibabel.save(study.mask, study.paths[0].parent / "mask.nii.gz")
    return study


class Page(html.parser.HTMLParser):
    """The text, the images and the places that a page refers to; unclosed elements are errors."""

    def __init__(self, text):
        super().__init__()
        self.text, self.images, self.links, self.open = "", [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)
        if tag == "img":
            self.images.append(attributes["src"])
        self.links += [attributes[name] for name in ("href", "src") if name in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read_page(path):
    return Page(path.read_text(encoding="utf-8"))


def pixels(source):
    from matplotlib.image import imread

    kind, data = source.split(",", 1)
    assert kind == "data:image/png;base64"
    return imread(io.BytesIO(base64.b64decode(data)))


def test_report_is_one_page_without_network(tmp_path, study):
    maps = DictLearning(3, mask=study.mask, t_r=2.0, random_state=0, n_epochs=2).fit(study.paths)
    page = read_page(maps.report(tmp_path / "report.html"))
    assert all(link.startswith(("#map-", "data:image/png;base64,")) for link in page.links)
    assert len(page.images) == 2 + 3 * 3
    assert all(pixels(image)[..., :3].std() > 0.01 for image in page.images)
    share = f"{100 * maps.explained_variance_ratio_[0]:.2f} % of the variance"
    for needle in ("3 maps of 3 scans", share, "sub-02.nii.gz", "nilearn", "n_components", "L1Ball", "120"):
        assert needle in page.text
    assert "stopped" not in page.text
    maps.stopped_by_ = "interrupt"
    assert "The run was stopped before its end." in read_page(maps.report(tmp_path / "report.html")).text
    with pytest.raises(ValueError, match=r"must end in .html"):
        maps.report(tmp_path / "report.pdf")


def test_names_are_escaped(tmp_path, study):
    path = tmp_path / "a<b&c.nii.gz"
    path.write_bytes(study.paths[0].read_bytes())
    maps = DictLearning(3, mask=study.mask, random_state=0, n_epochs=1).fit([path])
    assert "a<b&c.nii.gz" in read_page(maps.report(tmp_path / "report.html")).text


def test_place_of_the_strongest_voxel():
    values = np.zeros((*SHAPE, 2), np.float32)
    values[1, 2, 3, 0], values[4, 4, 4, 0], values[5, 6, 7, 1] = 2, 1, -3
    maps = nibabel.Nifti1Image(values, np.array([[-2.0, 0, 0, 10], [0, 3, 0, 0], [0, 0, 4, -1], [0, 0, 0, 1]]))
    assert figures.peak_of(maps, 0) == (8.0, 6.0, 11.0)
    assert figures.peak_of(maps, 1) == (0.0, 18.0, 27.0)


@pytest.mark.parametrize("whole", [False, True])
def test_maps_outside_of_mni_space_are_drawn(study, whole):
    affine = study.mask.affine @ np.array([[0, 1, 0, 500], [1, 0, 0.1, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    mask = np.ones(SHAPE, np.uint8) if whole else study.mask.get_fdata().astype(np.uint8)
    maps = nibabel.Nifti1Image(np.moveaxis(study.maps, 0, -1), affine)
    png = figures.brain(maps, 0, figures.background_of(nibabel.Nifti1Image(mask, affine)))
    picture = pixels(f"data:image/png;base64,{base64.b64encode(png).decode()}")[..., :3]
    assert (picture[..., 0] > picture[..., 2] + 0.3).sum() > 100
    assert (picture[..., 2] > picture[..., 0] + 0.3).sum() == 0  # a positive map has no blue


def test_template_is_behind_maps_in_mni_space_only(study):
    affine = study.mask.affine.copy()
    affine[:3, 3] = 500
    far = nibabel.Nifti1Image(study.mask.get_fdata().astype(np.uint8), affine)
    assert figures.background_of(study.mask).is_template
    assert not figures.background_of(far).is_template


# Surfaces


def sheet(n=12):
    """A curved square of n x n vertices."""
    x, y = np.meshgrid(np.linspace(-1, 1, n), np.linspace(-1, 1, n), indexing="ij")
    places = np.column_stack([x.ravel(), y.ravel(), (x**2 + y**2).ravel()]).astype(np.float32)
    corner = np.arange(n * n).reshape(n, n)[:-1, :-1].ravel()
    faces = np.concatenate([np.column_stack([corner, corner + 1, corner + n]),
                            np.column_stack([corner + 1, corner + n + 1, corner + n])])  # fmt: skip
    return InMemoryMesh(places, faces)


@pytest.fixture(scope="module")
def surfaces():
    """Three scans of a mesh, and the maps behind them."""
    rng, mesh = np.random.default_rng(0), PolyMesh(left=sheet(), right=sheet())
    maps = np.zeros((3, 288), np.float32)
    maps[0, 20:40], maps[1, 100:130], maps[2, 200:230] = 1, 1, 1
    scans = []
    for _ in range(3):
        x = (rng.standard_normal((40, 3)) @ maps + 0.3 * rng.standard_normal((40, 288))).astype(np.float32).T
        scans.append(SurfaceImage(mesh=mesh, data={"left": x[:144], "right": x[144:]}))
    return scans, maps


@pytest.mark.filterwarnings("ignore:The following parameters are not relevant", "ignore:.*fsaverage.*")
def test_maps_of_surfaces(tmp_path, surfaces):
    scans, truth = surfaces
    maps = DictLearning(3, smoothing_fwhm=None, random_state=0, cache=tmp_path).fit(scans)
    assert cosines(maps.components_, truth).min() > 0.95
    assert isinstance(maps.components_img_, SurfaceImage)
    np.testing.assert_array_equal(maps.components_img_.data.parts["left"], maps.components_[:, :144].T)
    courses = maps.transform(scans)
    assert isinstance(maps.inverse_transform(courses)[0], SurfaceImage)
    assert maps.score(scans) == pytest.approx(maps.total_explained_variance_ratio_, rel=1e-5)
    page = read_page(maps.report(tmp_path / "report.html"))
    assert "vertices" in page.text
    assert len(page.images) == 11
    again = DictLearning(3, smoothing_fwhm=None, random_state=0, cache=tmp_path).fit(scans)
    np.testing.assert_array_equal(again.components_, maps.components_)
    assert len(list(tmp_path.glob("masked-*.h5"))) == 1
    flat = SurfaceImage(mesh=scans[0].mesh, data={side: part[:, 0] for side, part in scans[0].data.parts.items()})
    with pytest.raises(ValueError, match=r"imgs\[0\] must have vertices and frames"):
        DictLearning(3).fit([flat])


# The command


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """The command in this process: exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_MMF_CACHE", "0")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["jax-mmf", "fmri", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out = capsys.readouterr()
        return caught.value.code, out.out, out.err

    return call


def options(study, *more):
    return ["-k", 3, "--mask", study.paths[0].parent / "mask.nii.gz", "--smoothing-fwhm", 0, "--quiet", *more]


def test_command_writes_maps_and_report(run, tmp_path, study):
    status, out, err = run(*study.paths, *options(study, "-o", "maps.nii.gz", "--report", "r.html", "--tr", 2))
    assert (status, err) == (0, "")
    assert "3 maps" in out
    assert "r.html" in out
    inside = study.mask.get_fdata() > 0
    maps = nibabel.load(tmp_path / "maps.nii.gz").get_fdata()
    assert cosines(maps[inside].T, study.maps[:, inside]).min() > 0.93
    assert "3 maps of 3 scans" in read_page(tmp_path / "r.html").text
    expected = DictLearning(3, mask=study.mask, smoothing_fwhm=None, random_state=0).fit(study.paths)
    np.testing.assert_allclose(maps[inside].T, expected.components_, atol=1e-6)


def test_patterns_files_of_paths_and_confounds(run, tmp_path, study):
    rng = np.random.default_rng(0)
    for number in range(3):
        np.savetxt(tmp_path / f"c{number}.tsv", rng.standard_normal((40, 2)), delimiter="\t")
    (tmp_path / "scans.txt").write_text("\n".join(map(str, study.paths)) + "\n\n")
    pattern = str(study.paths[0].parent / "sub-*.nii.gz")
    assert run(pattern, *options(study, "-o", "a.nii", "--confounds", "c*.tsv"))[0] == 0
    assert run("@scans.txt", *options(study, "-o", "b.nii", "--confounds", "c*.tsv", "--epochs", 50))[0] == 0
    assert (tmp_path / "a.nii").read_bytes() == (tmp_path / "b.nii").read_bytes()
    assert run("@scans.txt", *options(study, "-o", "c.nii", "--reduction", 4, "--positive", "--seed", 1))[0] == 0
    assert nibabel.load("c.nii").get_fdata().min() >= 0


def test_masked_frames_are_kept(run, tmp_path, study):
    for _ in range(2):
        assert run(*study.paths, *options(study, "-o", "maps.nii.gz", "--masked", "work"))[0] == 0
    assert len(list((tmp_path / "work").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "give IMAGES, or --demo instead"),
        (["SCAN", "--demo"], 2, "give IMAGES, or --demo instead"),
        (["SCAN"], 2, "the image to write is missing"),
        (["SCAN", "-o", "maps.h5"], 2, "must end in .nii or .gz"),
        (["SCAN", "-o", "m.nii", "--low-pass", "0.1"], 2, "need the repetition time"),
        (["SCAN", "-o", "m.nii", "--confounds", "SCAN", "SCAN"], 2, "1 tables for 2 images"),
        (["none-*.nii", "-o", "m.nii"], 1, "no file matches 'none-*.nii'"),
        (["@none.txt", "-o", "m.nii"], 1, "none.txt"),
        (["SCAN", "absent.nii", "-o", "m.nii"], 1, "no file absent.nii; 1 of 2 are missing"),
        (["SCAN", "-o", "SCAN"], 1, "is an input too"),
        (["SCAN", "-o", "none/m.nii"], 1, "the folder none of"),
    ],
)
def test_errors_are_one_line(run, tmp_path, study, arguments, status, message):
    scan = str(study.paths[0])
    found, _, err = run(*(scan if argument == "SCAN" else argument for argument in arguments), "--quiet")
    assert (found, message in err, err.count("\n")) == (status, True, 1)
    assert not list(tmp_path.iterdir())


def test_file_that_is_cut_short_is_named(run, tmp_path, study):
    (tmp_path / "bad.nii.gz").write_bytes(study.paths[1].read_bytes()[:20_000])
    status, _, err = run(study.paths[0], "bad.nii.gz", *options(study, "-o", "maps.nii.gz"))
    assert (status, "bad.nii.gz can't be masked" in err) == (1, True)
    assert not (tmp_path / "maps.nii.gz").exists()


def test_signal_ends_the_run_with_its_status(tmp_path, study):
    command = [sys.executable, "-m", "jax_mmf", "fmri", *study.paths, *options(study, "-o", "maps.nii.gz")]
    command.remove("--quiet")
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*map(str, command), "--epochs", "1000000"], cwd=tmp_path, stderr=log, stdout=log,
            env=os.environ | {"JAX_MMF_CACHE": "0"},
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while "atoms" not in (tmp_path / "log").read_text() and time.monotonic() < deadline:
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    assert nibabel.load(tmp_path / "maps.nii.gz").shape == (*SHAPE, 3)
    assert gzip.decompress((tmp_path / "maps.nii.gz").read_bytes())


@pytest.mark.slow
def test_demo(run, tmp_path):
    status, out, err = run("--demo", "--quiet")
    assert (status, err) == (0, "")
    assert "10 of 10 planted maps found" in out
    assert (tmp_path / "jax-mmf-fmri-demo" / "report.html").stat().st_size > 100_000

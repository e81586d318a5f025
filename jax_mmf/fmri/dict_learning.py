"""`DictLearning`: sparse maps of brain images, with the parameters of nilearn's estimator of the same name."""

from pathlib import Path
from typing import Any, Self

import numpy as np
from joblib import effective_n_jobs
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from jax_mmf.core import check_count, check_real, check_shape, warn
from jax_mmf.fmri.first_maps import independent_maps, scaled_to
from jax_mmf.fmri.learning import learned, solver_of
from jax_mmf.fmri.maps import ExplainedVariance, frames_of, time_courses, upright
from jax_mmf.fmri.masking import fitted_masker, masked, unprocessed
from jax_mmf.fmri.scans import Scan, scans_of
from jax_mmf.fmri.training_data import folder_for, kept_folder, masked_file
from jax_mmf.io import Source, open_source
from jax_mmf.learning import OnlineFactorization
from jax_mmf.training import Callback, ProgressBar
from jax_mmf.typing import HostArray


class DictLearning(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Learn sparse spatial maps from 4D images of many subjects, streamed from disk.

    The model is ``X ~ A D``: X holds the frames of all scans in rows and the voxels of the mask in columns, A the time
    courses and D the maps. Codes are ridge codes, and each map is in an l1 ball, which makes it sparse ([TSP18]).

    Each scan is masked and cleaned once by nilearn's maskers, and written to one file, from which mini-batches of
    frames are read. No reduction by PCA is needed, and memory does not grow with the number of scans.

    Args:
      n_components: number of maps.
      n_epochs: passes over the frames, rounded up; None makes at least 50 steps.
      alpha: sparsity of the maps; more is sparser. The number does not depend on the scale of the data, the number of
        frames or the number of voxels: it is the ridge penalty of time courses, for maps in an l1 ball of radius
        ``sqrt(n_voxels / n_components)``. In nilearn it is the lasso penalty of maps.
      reduction_ratio: accepted for scripts of nilearn, without effect: all frames are used.
      dict_init: image of initial maps, 4D with n_components of them; None takes independent components of a part of the
        frames.
      random_state: seed, ``numpy.random.RandomState`` or None for another seed each time.
      batch_size: frames per step; None chooses as `fit` does. In nilearn it is a number of voxels.
      method: accepted for scripts of nilearn, without effect: time courses are ridge codes.
      mask: image, masker of nilearn, or None to compute the mask from the images.
      smoothing_fwhm: width of the smoothing, in mm.
      standardize: as in nilearn's maskers; True is ``"zscore_sample"``.
      standardize_confounds: as in nilearn's maskers.
      detrend: whether linear trends are removed.
      low_pass: highest frequency to keep, in Hz.
      high_pass: lowest frequency to keep, in Hz.
      t_r: repetition time, in seconds.
      dtype: of the masker's computations: float64, or float32 for all other values. Frames are stored as float32.
      target_affine: affine to which images are resampled.
      target_shape: shape to which images are resampled.
      mask_strategy: how the mask is computed, as in `nilearn.maskers.MultiNiftiMasker`.
      mask_args: arguments of the computation of the mask.
      n_jobs: number of scans that are masked at a time, each in a process with its own memory.
      verbose: 0 is silent; 1 shows the progress of masking and of learning.
      memory: as in nilearn, for the computation of the mask; with a folder and no ``cache``, the masked frames are kept
        in it.
      memory_level: as in nilearn.
      reduction: stochastic subsampling: each step computes codes from a random 1 / reduction of the voxels, and updates
        the maps there; None chooses as `jax_mmf.default_solver` does.
      positive: whether maps are non-negative; another ``constraint`` has the attribute ``nonneg`` instead.
      penalty: on the time courses, instead of the ridge penalty of ``alpha``.
      constraint: of the maps, instead of the l1 ball; `jax_mmf.ElasticNetBall` for instance.
      cache: folder in which masked frames are kept, and used again as long as images, confounds, mask and the options
        of masking are unchanged. A `fit` that was stopped resumes from there. None uses a temporary folder.

    Attributes:
      components_: ``(n_components, n_voxels)`` float32 maps of norm 1, mostly positive, by decreasing explained
        variance.
      components_img_: these maps as a 4D image or `SurfaceImage`.
      components_init_: ``(n_components, n_voxels)`` the initial maps.
      masker_: fitted masker of nilearn.
      mask_img_: its mask.
      n_elements_: number of maps.
      explained_variance_ratio_: ``(n_components,)`` share of the variance that each map explains by itself.
      total_explained_variance_ratio_: share that all maps explain together, as `score` on the training images.
      time_courses_: ``(n_frames, n_components)`` of the first scan.
      history_: records of the run, see `jax_mmf.Record`.
      solver_: solver of the run.
      n_steps_: number of steps.
      stopped_by_: ``"epochs"`` for a complete run, ``"interrupt"`` after Ctrl-C.
      scans_: names of the images, and the number of frames of each.

    Example:
      >>> import nibabel, numpy as np
      >>> from jax_mmf.fmri import DictLearning
      >>> rng = np.random.default_rng(0)
      >>> image = nibabel.Nifti1Image(rng.normal(size=(6, 6, 6, 40)).astype("float32"), np.eye(4))
      >>> mask = nibabel.Nifti1Image(np.ones((6, 6, 6), "uint8"), np.eye(4))
      >>> maps = DictLearning(n_components=2, mask=mask, smoothing_fwhm=None, n_epochs=1, random_state=0).fit(image)
      >>> maps.components_img_.shape, maps.components_.shape
      ((6, 6, 6, 2), (2, 216))
    """

    def __init__(
        self,
        n_components: int = 20,
        n_epochs: float | None = None,
        alpha: float = 3,
        reduction_ratio: Any = "auto",
        dict_init: Any = None,
        random_state: Any = None,
        batch_size: int | None = None,
        method: str = "cd",
        mask: Any = None,
        smoothing_fwhm: float | None = 4,
        standardize: Any = True,
        standardize_confounds: bool = True,
        detrend: bool = True,
        low_pass: float | None = None,
        high_pass: float | None = None,
        t_r: float | None = None,
        dtype: Any = None,
        target_affine: Any = None,
        target_shape: Any = None,
        mask_strategy: str = "epi",
        mask_args: dict[str, Any] | None = None,
        n_jobs: int = 1,
        verbose: int = 0,
        memory: Any = None,
        memory_level: int = 0,
        *,
        reduction: float | None = None,
        positive: bool = False,
        penalty: Any = None,
        constraint: Any = None,
        cache: Any = None,
    ) -> None:
        self.n_components = n_components
        self.n_epochs = n_epochs
        self.alpha = alpha
        self.reduction_ratio = reduction_ratio
        self.dict_init = dict_init
        self.random_state = random_state
        self.batch_size = batch_size
        self.method = method
        self.mask = mask
        self.smoothing_fwhm = smoothing_fwhm
        self.standardize = standardize
        self.standardize_confounds = standardize_confounds
        self.detrend = detrend
        self.low_pass = low_pass
        self.high_pass = high_pass
        self.t_r = t_r
        self.dtype = dtype
        self.target_affine = target_affine
        self.target_shape = target_shape
        self.mask_strategy = mask_strategy
        self.mask_args = mask_args
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.memory = memory
        self.memory_level = memory_level
        self.reduction = reduction
        self.positive = positive
        self.penalty = penalty
        self.constraint = constraint
        self.cache = cache

    def fit(self, imgs: Any, y: Any = None, confounds: Any = None, sample_mask: Any = None) -> Self:
        """Mask the images, and learn the maps.

        Args:
          imgs: path, pattern with wildcards, 4D image, `SurfaceImage`, or a list of paths and images, one for each
            scan. Numbers of frames may differ.
          y: ignored.
          confounds: for each image a table (path, array or frame), a list of tables, or None.
          sample_mask: for each image the frames to keep, as numbers or booleans, or None.

        Returns:
          the estimator. After Ctrl-C during learning, the maps are those of the last step.

        Raises:
          FileNotFoundError: if a file is missing.
          ValueError: for an image, table or mask that does not fit or can't be read; the message names it.
          OSError: if the masked frames can't be written.
        """
        self._check_parameters()
        scans = scans_of(imgs, confounds, sample_mask)
        n_frames = sum(scan.n_frames for scan in scans)
        if n_frames < self.n_components:
            raise ValueError(f"{n_frames} frames are too few for n_components={self.n_components}; use fewer")
        self.masker_ = fitted_masker(self, scans)
        self.mask_img_ = self.masker_.mask_img_
        kept = kept_folder(self.cache, self.memory)
        with folder_for(kept) as folder:
            path = masked_file(folder, self.masker_, scans, effective_n_jobs(self.n_jobs), verbose=self.verbose)
            with open_source(path) as source:
                self._learn(source, kept)
                self._describe(source, scans)
        return self

    def transform(self, imgs: Any, confounds: Any = None, sample_mask: Any = None) -> list[HostArray]:
        """Compute the time courses of images, which are masked and cleaned as in `fit`.

        Each frame is approximated by the maps in least squares. nilearn's estimator uses the images as they are
        instead; ``nilearn.maskers.NiftiMapsMasker(maps.components_img_)`` does this.

        Args:
          imgs: as in `fit`.
          confounds: as in `fit`.
          sample_mask: as in `fit`.

        Returns:
          ``(n_frames, n_components)`` for each image.
        """
        check_is_fitted(self)
        scans = scans_of(imgs, confounds, sample_mask)
        return [time_courses(masked(self.masker_, scan), self.components_) for scan in scans]

    def fit_transform(
        self, imgs: Any, y: Any = None, confounds: Any = None, sample_mask: Any = None
    ) -> list[HostArray]:
        """Learn the maps, and compute the time courses of the same images; arguments are those of `fit`."""
        return self.fit(imgs, y, confounds, sample_mask).transform(imgs, confounds, sample_mask)

    def inverse_transform(self, loadings: list[HostArray]) -> list[Any]:
        """Compute the images of time courses: 4D images, or `SurfaceImage` objects.

        Args:
          loadings: list of ``(n_frames, n_components)``, as `transform` returns it.

        Raises:
          TypeError: unless it is a list.
          ValueError: for an array of another width.
        """
        check_is_fitted(self)
        if not isinstance(loadings, list):
            raise TypeError(f"loadings must be a list with an array for each image, got {type(loadings).__name__}")
        parts = [np.asarray(part) for part in loadings]
        for i, part in enumerate(parts):
            check_shape(f"loadings[{i}]", part, (None, self.n_elements_), "(n_frames, n_components)")
        return [self.masker_.inverse_transform(part @ self.components_) for part in parts]

    def score(
        self, imgs: Any, y: Any = None, confounds: Any = None, per_component: bool = False, sample_mask: Any = None
    ) -> Any:
        """Return the share of the variance of images that the maps explain, by nilearn's definitions.

        Args:
          imgs: as in `fit`. One of them at a time is in memory.
          y: ignored.
          confounds: as in `fit`.
          per_component: whether to return ``(n_components,)`` shares that each map explains by itself.
          sample_mask: as in `fit`.
        """
        check_is_fitted(self)
        explained = ExplainedVariance(self.components_)
        for scan in scans_of(imgs, confounds, sample_mask):
            explained.add(masked(self.masker_, scan))
        return explained.per_map() if per_component else explained.together()

    def report(self, path: str | Path) -> Path:
        """Write a report of the fitted maps: one HTML file that needs no network.

        It shows each map at its strongest cut, the time course and the spectrum of the first scan, explained variance,
        convergence, parameters, versions and input files.

        Args:
          path: of the file, .html.

        Returns:
          the path.
        """
        check_is_fitted(self)
        from jax_mmf.fmri.report import write_report

        return write_report(self, path)

    @property
    def n_elements_(self) -> int:
        """Number of maps."""
        return len(self.components_)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "components_")

    def _check_parameters(self) -> None:
        check_count("n_components", self.n_components)
        check_real("alpha", self.alpha, low=0.0)
        if self.positive and self.constraint is not None:
            raise ValueError("positive=True is for the default constraint; pass a constraint with nonneg=True instead")
        if self.reduction is not None:
            check_real("reduction", self.reduction, low=1.0)
        if self.n_epochs is not None:
            check_real("n_epochs", self.n_epochs, low=0.0, open_low=True)
        if self.reduction_ratio != "auto":
            warn(f"reduction_ratio={self.reduction_ratio!r} has no effect: all frames are used, without reduction")
        if self.method != "cd":
            warn(f"method={self.method!r} has no effect: time courses are ridge codes, in closed form")

    def _learn(self, source: Source, folder: Path | None) -> None:
        solver = solver_of(
            self.n_components, source.n_features, self.alpha, reduction=self.reduction,
            positive=self.positive, penalty=self.penalty, constraint=self.constraint,
        )  # fmt: skip
        seed = self._seed()
        maps = self._first_maps(solver, source, seed)
        callbacks: list[Callback] = [ProgressBar()] if self.verbose else []
        result = learned(
            solver, source, maps, seed=seed, n_epochs=self.n_epochs, batch_size=self.batch_size, callbacks=callbacks,
            folder=folder,
        )  # fmt: skip
        self.components_init_, self.solver_ = maps, result.solver
        self.history_, self.stopped_by_ = result.history, result.stopped_by
        self.n_steps_ = int(result.state.step)
        self.components_ = upright(np.asarray(result.dictionary, np.float32))

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _first_maps(self, solver: OnlineFactorization, source: Source, seed: int) -> HostArray:
        if self.dict_init is None:
            return independent_maps(solver, source, seed)
        scan = Scan(self.dict_init, "dict_init", self.n_components)
        return scaled_to(solver, masked(unprocessed(self.masker_), scan))

    def _describe(self, source: Source, scans: list[Scan]) -> None:
        """Scale the maps to norm 1, put them in order, and make what is derived from them."""
        norms = np.linalg.norm(self.components_, axis=1, keepdims=True)
        maps = self.components_ / np.where(norms > 0, norms, 1)
        stored = maps if source.permutation is None else maps[:, source.permutation]
        explained = ExplainedVariance(stored)
        for x in frames_of(source):
            explained.add(x)
        shares = explained.per_map()
        order = np.argsort(-shares, kind="stable")
        self.components_, self.explained_variance_ratio_ = maps[order], shares[order]
        self.components_init_ = self.components_init_[order]
        self.total_explained_variance_ratio_ = explained.together()
        self.components_img_ = self.masker_.inverse_transform(self.components_)
        self.time_courses_ = time_courses(source.read(np.arange(scans[0].n_frames)), stored[order])
        self.scans_ = [(scan.name, scan.n_frames) for scan in scans]

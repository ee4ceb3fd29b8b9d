"""Gaussian mixture density."""

import warnings
from dataclasses import dataclass

import numpy as np

from minari_obd.densities.base import Estimator, Fitted, Parts
from minari_obd.errors import SettingError
from minari_obd.support.libraries import check_installed
from minari_obd.support.streams import Stream

__all__ = ["GaussianMixture"]


@dataclass(frozen=True)
class GaussianMixture(Estimator):
    """Gaussian mixture with full covariances: d(s) = Σ_k π_k N(s; μ_k, Σ_k + resolution² I).

    It is fitted by expectation-maximisation. The number of components grows along the candidates while the held-out
    log-likelihood rises by more than the standard error of its rise. The blur is exact here: noise adds its variance to
    a Gaussian's covariance (scikit-learn's ``reg_covar``).
    """

    candidates: tuple[int, ...] = (1, 4, 16, 64)
    """Ascending numbers of components to try. Numbers that would leave fewer than S + 1 states each are skipped."""
    rows: int = 50_000
    """Maximum number of states used."""
    iterations: int = 100
    """Maximum rounds of expectation-maximisation. A fit that has not converged by then is treated like the others."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_installed("sklearn", "distill")
        if not self.candidates or self.candidates[0] < 1 or list(self.candidates) != sorted(set(self.candidates)):
            raise SettingError(f"The candidates are {self.candidates}; give ascending numbers of 1 or more.")

    @property
    def _most(self) -> int:
        return self.rows

    @property
    def _least(self) -> int:
        return max(2, self.candidates[0])

    def _fit(self, parts: Parts, seed: int) -> Fitted:
        from sklearn import mixture
        from sklearn.exceptions import ConvergenceWarning
        from threadpoolctl import threadpool_limits

        count, dimensions = parts.training.shape
        state = Stream.DENSITY.seed(seed, 2)
        best, reached = None, np.empty(0)
        for components in self.candidates:
            if best is not None and components * (dimensions + 1) > count:
                break
            model = mixture.GaussianMixture(
                components, reg_covar=self.resolution**2, max_iter=self.iterations, random_state=state
            )
            # One thread: the initial k-means adds up in the order in which its threads finish.
            with warnings.catch_warnings(), threadpool_limits(1):
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(parts.training)
            likelihoods = model.score_samples(parts.held_out)
            if best is not None:
                rise = likelihoods - reached
                if rise.mean() <= rise.std() / np.sqrt(len(rise)):
                    break
            best, reached = model, likelihoods
        assert best is not None
        return Fitted(best.score_samples, {"components": int(best.n_components)})

"""k-means: a few states that represent all of them."""

import warnings

import numpy as np

__all__ = ["central_rows"]


def central_rows(states: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Return the rows of the states nearest to the centres of k-means (scikit-learn's MiniBatchKMeans), all different.

    Args:
        states: normalised states, shape (N, S).
        size: number of centres, at most N.
        seed: seed of the first centres and the minibatches.

    Returns:
        Row numbers, shape (size,), in the order of the centres.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import pairwise_distances_argmin
    from threadpoolctl import threadpool_limits

    with warnings.catch_warnings(), threadpool_limits(1):
        # With fewer distinct states than centres, some centres coincide, which the loop below corrects.
        warnings.simplefilter("ignore", ConvergenceWarning)
        centres = MiniBatchKMeans(size, random_state=seed, batch_size=4_096).fit(states).cluster_centers_
        rows = pairwise_distances_argmin(centres, states)
    is_taken = np.zeros(len(states), dtype=bool)
    for i, centre in enumerate(centres):
        if is_taken[rows[i]]:  # centres may share their nearest state; the later one then takes the next
            distances = np.square(states - centre).sum(axis=1)
            rows[i] = np.argmin(np.where(is_taken, np.inf, distances))
        is_taken[rows[i]] = True
    return rows

"""The kernel of infinitely wide students as NumPy code, for the cards of sets and policies."""

__all__ = ["numpy_kernel"]


def numpy_kernel(depth: int) -> str:
    """Return Python that defines ``kernel(x, y)`` for states (N, S) and (M, S), as of a student with hidden layers.

    It says once more what :mod:`minari_obd.students.kernel` computes, for readers without torch; tests compare them.
    """
    return f"""def kernel(x, y):
    n = np.sqrt((x**2).sum(-1)[:, None] * (y**2).sum(-1)) / x.shape[-1] + 1e-12
    k = x @ y.T / x.shape[-1]
    for _ in range({depth}):
        c = np.clip(k / n, 1e-5 - 1, 1 - 1e-5)
        k = n * (np.sqrt(1 - c**2) + (np.pi - np.arccos(c)) * c) / np.pi
    return k + 0.1"""

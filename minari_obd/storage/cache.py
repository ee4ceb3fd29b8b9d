"""The cache: where trained teachers, fitted ensembles and checkpoints are kept."""

from minari_obd.storage.files import check_writable
from minari_obd.support.devices import cache_root

__all__ = ["check_cache"]


def check_cache() -> None:
    """Make sure, before any long work, that its result and its checkpoints can be kept.

    Raises:
        SettingError: the folder cannot be written, or there is none.
    """
    check_writable(cache_root() / "checkpoints", "cache", "set MINARI_OBD_CACHE to a folder that you may write to")

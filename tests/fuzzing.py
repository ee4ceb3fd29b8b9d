"""What the property tests share: odd values, places to put them, and damage to bytes."""

from copy import deepcopy
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

often = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
seldom = settings(often, max_examples=40)


def paths_in(values: Any, path: tuple = ()) -> list[tuple]:
    found = [path] if path else []
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return found + [deeper for key, value in items for deeper in paths_in(value, (*path, key))]


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["", "../..", "evil:Env-v0", "\x1b[2J", "a" * 20_000, -1, 0, 10**400, 1e308, "NaN", [[]], {}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


CHANGES = st.lists(st.tuples(st.integers(0, 2**20), st.booleans(), ANYTHING), min_size=1, max_size=3)


def changed(data: st.DataObject, values: Any) -> Any:
    """JSON values of which one to three, anywhere, are replaced by anything, or left out."""
    values = deepcopy(values)
    for number, is_left_out, new in data.draw(CHANGES):  # drawn at once, whatever the values are
        paths = paths_in(values)
        if not paths:
            break
        *above, last = paths[number % len(paths)]
        place = values
        for key in above:
            place = place[key]
        if is_left_out and isinstance(place, dict):
            place.pop(last, None)
        else:
            place[last] = deepcopy(new)  # sampled lists are shared
    return values


def damage(data: st.DataObject, content: bytes) -> bytes:
    kind = data.draw(st.sampled_from(["flip", "cut", "put", "replace"]))
    place = data.draw(st.integers(0, max(len(content) - 1, 0)))
    junk = data.draw(st.binary(min_size=1, max_size=16))
    if kind == "cut":
        return content[:place]
    if kind == "put":
        return content[:place] + junk + content[place:]
    if kind == "replace":
        return junk
    return content[:place] + bytes(b ^ 0xFF for b in content[place : place + len(junk)]) + content[place + len(junk) :]

import pytest

from fomo_ssl.core.errors import UnknownNameError
from fomo_ssl.core.registry import Registry


def make() -> Registry[int]:
    registry: Registry[int] = Registry("thing")
    registry.register("vit_s_p8")(lambda size=1: size)
    registry.register("resenc_s")(lambda: 2)
    return registry


def test_create_and_wildcards():
    registry = make()
    assert registry.create("vit_s_p8", size=5) == 5
    assert registry.names("vit_*") == ["vit_s_p8"]
    assert list(registry) == ["resenc_s", "vit_s_p8"]


def test_duplicate_is_an_error():
    with pytest.raises(ValueError, match="registered twice"):
        make().register("resenc_s")(lambda: 3)


def test_miss_lists_near_names():
    with pytest.raises(UnknownNameError, match="did you mean vit_s_p8"):
        make().create("vit_s8")
    with pytest.raises(UnknownNameError, match="known: resenc_s, vit_s_p8"):
        make().create("zzzzzz")

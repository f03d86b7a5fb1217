"""The JSON shapes that many resources share."""

from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig

from lab.resources.shapes import resource
from lab.snapshot import ECDS


class Watched(dict[str, str]):
    """Notes whether anything was taken out of it."""

    taken_from = False

    def __delitem__(self, key: str) -> None:
        self.taken_from = True
        super().__delitem__(key)


def test_a_shared_shape_is_whole_at_every_moment_for_it_is_read_by_many_threads() -> None:
    shared = Watched(
        {"@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}
    )
    made = resource("x", ECDS, TypedExtensionConfig(), {"name": "x", "typed_config": shared})
    assert TypedExtensionConfig.FromString(made.value).typed_config.type_url == shared["@type"]
    assert not shared.taken_from

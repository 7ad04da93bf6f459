"""What all attempts of an AlignTuneJob share."""

from typing import Any

from aligntune.api.job import AlignTuneJobSpec
from aligntune_operator.observe import Key
from aligntune_operator.render.network_policy import network_policy
from aligntune_operator.render.service import service
from aligntune_operator.settings import Settings


def shared_objects(
    key: Key, uid: str, spec: AlignTuneJobSpec, settings: Settings
) -> list[dict[str, Any]]:
    """What stands beside each attempt's Job, and is to be there before it."""
    objects = []
    if settings.network_policies:
        objects.append(network_policy(key, uid, settings.observers))
    if spec.runtime.nodes > 1:
        objects.append(service(key, uid))
    return objects

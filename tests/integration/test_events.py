"""Events on a real API server that does not always take them."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from tests.chaos.endpoints import Network
from tests.chaos.proxy import Proxy
from tests.chaos.world import ApiServer, plain_kubeconfig
from tests.cluster.control_plane import ControlPlane
from tests.cluster.operator_process import Operator
from tests.integration.conftest import Api


def an_event(request: web.BaseRequest) -> bool:
    return request.method == "POST" and request.path.endswith("/events")


def test_events_that_the_api_server_did_not_take_are_there_in_the_end_and_once(
    control_plane: ControlPlane, api: Api, manifest: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    server = ApiServer(control_plane)
    with Proxy(server.url, server.credentials, Network()) as proxy:
        proxy.answer(503, an_event, times=3)
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(plain_kubeconfig(proxy.url)))
        operator = Operator(kubeconfig, tmp_path / "log", "--namespaces", api.namespace)
        operator.start()
        api.apply(manifest("chat"))

        def reasons() -> list[str]:
            selector = "involvedObject.kind=AlignTuneJob"
            found = json.loads(api("get", "events", "--field-selector", selector, "-o", "json"))
            return sorted(event["reason"] for event in found["items"])

        api.until("told", lambda: reasons() == ["AttemptStarted"])
        assert proxy.done == 3
        assert operator.stop(signal.SIGTERM) == 0
    server.close()
    assert "Traceback" not in operator.log

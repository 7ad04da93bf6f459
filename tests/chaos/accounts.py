"""Service accounts whose tokens expire."""

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

ISSUER = "https://kubernetes.default.svc"
FORGIVEN_SECONDS = 60
"""How long the API server takes a token that has expired, for clocks that are wrong."""
USUAL_SECONDS = 3600.0
RBAC = "apis/rbac.authorization.k8s.io/v1"

Server = Callable[..., dict[str, Any]]


class Account:
    """A service account, and the file where a kubelet would have its token.

    The API server itself gives no token that expires within minutes, so this signs them as it does.

    Args:
        state: The control plane's folder, with the key that it signs tokens with.
        server: The API server, as its administrator sees it.
        file: Where the token goes.
    """

    def __init__(self, state: Path, server: Server, file: Path) -> None:
        key = load_pem_private_key((state / "pki" / "service-accounts.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key, self._server, self.file = key, server, file
        body = {"metadata": {"generateName": "operator-"}}
        made = server("POST", "/api/v1/namespaces/kube-system/serviceaccounts", body)
        self._name: str = made["metadata"]["name"]
        self._uid: str = made["metadata"]["uid"]
        self.renew()

    def renew(self, seconds: float = USUAL_SECONDS) -> None:
        """Puts a token into the file that the API server takes for so many seconds."""
        now = int(time.time())
        account = {"name": self._name, "uid": self._uid}
        claims = {
            "iss": ISSUER,
            "aud": [ISSUER],
            "sub": f"system:serviceaccount:kube-system:{self._name}",
            "iat": now - FORGIVEN_SECONDS,
            "nbf": now - FORGIVEN_SECONDS,
            "exp": int(now + seconds - FORGIVEN_SECONDS),
            "kubernetes.io": {"namespace": "kube-system", "serviceaccount": account},
        }
        new = self.file.with_suffix(".new")
        new.write_text(self._signed(claims))
        new.replace(self.file)  # at once, as a kubelet's

    def let_in(self, namespace: str) -> None:
        """Gives it all rights in a namespace."""
        subject = {"kind": "ServiceAccount", "name": self._name, "namespace": "kube-system"}
        body = {
            "metadata": {"name": self._name},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "cluster-admin",
            },
            "subjects": [subject],
        }
        self._server("POST", f"/{RBAC}/namespaces/{namespace}/rolebindings", body)

    def shut_out(self, namespace: str) -> None:
        """Takes its rights in a namespace."""
        self._server("DELETE", f"/{RBAC}/namespaces/{namespace}/rolebindings/{self._name}")

    def _signed(self, claims: dict[str, Any]) -> str:
        """A JSON Web Token, RFC 7515 and 7518."""
        said = ".".join(_encoded(json.dumps(part).encode()) for part in ({"alg": "ES256"}, claims))
        r, s = decode_dss_signature(self._key.sign(said.encode(), ec.ECDSA(SHA256())))
        return f"{said}.{_encoded(r.to_bytes(32) + s.to_bytes(32))}"


def _encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")

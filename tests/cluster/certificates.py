"""The certificates of one cluster and the kubeconfigs made from them."""

import base64
from dataclasses import dataclass
from pathlib import Path

import trustme
import yaml


@dataclass(frozen=True)
class KeyPair:
    certificate: Path
    key: Path


class Authority:
    """A certificate authority made for one cluster, which writes all it issues to a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self._folder = folder
        self._ca = trustme.CA(organization_name="aligntune test cluster")
        self.pair = self._write("ca", self._ca.cert_pem, self._ca.private_key_pem)

    def issue(
        self, name: str, *addresses: str, user: str | None = None, group: str | None = None
    ) -> KeyPair:
        """A key with a certificate, good for servers at these addresses and for this client.

        Kubernetes reads the client's user from the common name, its group from the organization.
        """
        issued = self._ca.issue_cert(
            # Without any address, trustme marks the empty list critical and Go refuses it.
            *(addresses or ("localhost",)),
            common_name=user or name,
            organization_name=group or "aligntune",
        )
        return self._write(name, issued.cert_chain_pems[0], issued.private_key_pem)

    def kubeconfig(self, path: Path, server: str, client: KeyPair) -> Path:
        """Writes a kubeconfig that carries its certificates, so that it can be copied about."""
        name = "aligntune-test"
        cluster = {
            "server": server,
            "certificate-authority-data": _base64(self.pair.certificate),
        }
        user = {
            "client-certificate-data": _base64(client.certificate),
            "client-key-data": _base64(client.key),
        }
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "current-context": name,
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    def _write(self, name: str, certificate: trustme.Blob, key: trustme.Blob) -> KeyPair:
        pair = KeyPair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        certificate.write_to_path(str(pair.certificate))
        key.write_to_path(str(pair.key))
        return pair


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()

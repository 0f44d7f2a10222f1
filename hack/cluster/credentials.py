"""Who may come in: the certificates of the control plane, and kubeconfigs for users and ServiceAccounts.

A kubeconfig is written as JSON, which is YAML too. Nothing here decides what anybody may do: that is RBAC's.
"""

import json
from pathlib import Path

from hack.cluster.certificates import (
    API_SERVER_NAMES,
    FRONT_PROXY_USER,
    Authority,
    Pair,
    service_account_key,
)
from hack.cluster.components import Files

_MASTERS = ("system:masters",)
CONTROL_PLANE_USERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "admin": ("admin", _MASTERS),
    "controller-manager": ("system:kube-controller-manager", ()),
    "scheduler": ("system:kube-scheduler", ()),
    "kwok": ("kwok", _MASTERS),
}


class Credentials:
    """The key folder of one cluster."""

    def __init__(self, files: Files, *, url: str) -> None:
        self._files = files
        self._url = url

    def make_control_plane(self) -> None:
        """Make what the processes need; authorities and the token key stay when they are there already."""
        keys = self._files.keys
        authority = self._authority()
        Authority(keys, "front-proxy-ca").issue("front-proxy", FRONT_PROXY_USER)
        service_account_key(keys)
        authority.issue("api-server", "kube-apiserver", serves=API_SERVER_NAMES)
        authority.issue("kubelet-client", "kube-apiserver-kubelet-client", groups=_MASTERS)
        for name, (user, groups) in CONTROL_PLANE_USERS.items():
            self._write(name, _certificate_user(authority.issue(name, user, groups=groups)))

    def kubeconfig_for(self, user: str, groups: tuple[str, ...]) -> Path:
        """Make a kubeconfig for a user with a client certificate."""
        name = f"user-{_file_name(user)}"
        return self._write(name, _certificate_user(self._authority().issue(name, user, groups=groups)))

    def kubeconfig_of(self, name: str, token: str) -> Path:
        """Make a kubeconfig that shows a token."""
        return self._write(_file_name(name), {"token": token})

    def serving(self, names: tuple[str, ...]) -> Pair:
        """Make a certificate for a server of these names."""
        return self._authority().issue(f"serving-{_file_name(names[0])}", names[0], serves=names)

    def _authority(self) -> Authority:
        return Authority(self._files.keys, "ca")

    def _write(self, name: str, user: dict[str, str]) -> Path:
        path = self._files.kubeconfig(name)
        cluster = {"server": self._url, "certificate-authority": str(self._files.keys / "ca.crt")}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "optiinfra", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": name, "context": {"cluster": "optiinfra", "user": name}}],
            "current-context": name,
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(content, indent=1))
        return path


def _certificate_user(pair: Pair) -> dict[str, str]:
    return {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}


def _file_name(text: str) -> str:
    return "".join(each if each.isalnum() or each in "-._" else "-" for each in text)

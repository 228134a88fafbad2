"""Cluster IPs and node ports of Services.

Owns the allocation, which only ever counts up, and what an update inherits. It never routes anything.
"""

from __future__ import annotations

from typing import Any

Obj = dict[str, Any]


class Addresses:
    def __init__(self) -> None:
        self._address = 10
        self._port = 30000

    def _next_address(self) -> str:
        self._address += 1
        return f"10.96.{self._address // 250}.{self._address % 250 + 1}"

    def assign(self, obj: Obj, old: Obj | None, *, dry_run: bool) -> None:
        """Gives a Service what its type needs; an ExternalName has none of it."""
        spec = obj["spec"]
        if spec.get("type") == "ExternalName":
            for key in ("clusterIP", "clusterIPs"):
                if old is not None:
                    spec.pop(key, None)
            return
        before = (self._address, self._port)
        if not spec.get("clusterIP"):
            spec["clusterIP"] = self._next_address()
        spec.setdefault("clusterIPs", [spec["clusterIP"]])
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        if spec.get("type") in ("NodePort", "LoadBalancer"):
            for port in spec.get("ports") or ():
                if not port.get("nodePort"):
                    self._port += 1
                    port["nodePort"] = self._port
        if dry_run:
            self._address, self._port = before

    @staticmethod
    def keep(old: Obj, new: Obj) -> None:
        """An update that leaves allocated values out keeps them."""
        was, now = old.get("spec") or {}, new.setdefault("spec", {})
        if now.get("type", "ClusterIP") == "ExternalName" or was.get("type") == "ExternalName":
            return
        for key in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if not now.get(key) and was.get(key):
                now[key] = was[key]
        ports = {
            (port.get("port"), port.get("protocol")): port.get("nodePort") for port in was.get("ports") or ()
        }
        if now.get("type") in ("NodePort", "LoadBalancer"):
            for port in now.get("ports") or ():
                found = ports.get((port.get("port"), port.get("protocol", "TCP")))
                if found and not port.get("nodePort"):
                    port["nodePort"] = found

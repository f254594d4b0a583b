"""Section prometheus of the configuration: where the instance shows itself by HTTP."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from dcalqr.config import values


def _address(value: object) -> str:
    """An IP address in its usual spelling: a name would make the start depend on a name server."""
    return str(ipaddress.ip_address(values.text(value).removeprefix("[").removesuffix("]")))


class Prometheus(BaseModel):
    """Metrics, health and the status page; nothing is served without a port.

    No port is opened that nobody asked for: the first dcalqr's file opens none, and of several instances on a node each
    needs another one. There is neither login nor TLS, so it is for this machine alone unless an address says otherwise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    address: Annotated[str, BeforeValidator(_address)] = Field(
        description='an IP address of this machine, such as "127.0.0.1", or "::" for all', default="127.0.0.1"
    )
    port: int | None = Field(ge=1, le=65535, description="a whole number from 1 to 65535", default=None)

    @property
    def is_public(self) -> bool:
        """Whether other machines may reach it."""
        return not ipaddress.ip_address(self.address).is_loopback

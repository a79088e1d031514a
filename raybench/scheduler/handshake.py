"""Find out within seconds whether a Ray cluster answers at an address.

`ray.init` waits for minutes, without a word, for a cluster that is not there. One call of Ray's protocol tells a closed
port, a port where something else listens, a server that hangs and a wrong token apart.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import grpc
from ray._private import services
from ray._private.grpc_utils import init_grpc_channel
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
from ray.exceptions import AuthenticationError

from raybench.errors import ClusterUnreachable, InputError

ANSWER_S = 5.0
CLIENT = "ray://"
_FORMS = "HOST:6379, ray://HOST:10001 or auto"
_ALONE = "give no address, and unset RAY_ADDRESS, to run on this machine alone"
_ANSWERED = {grpc.StatusCode.OK, grpc.StatusCode.UNIMPLEMENTED}  # a server of Ray Client does not know the call
_REMEDIES = {
    "Connection refused": "nothing listens there. Start a cluster with `ray start --head`, correct the address, or "
    + _ALONE,
    "resolving": "the host's name is unknown. Correct the address, or ask whoever runs the network's name server",
    "HTTP/2": "a server listens there, but not Ray's. By default a cluster's port is 6379, and 8265 its dashboard; if "
    "the cluster uses TLS, set RAY_USE_TLS=1 and its certificates here too",
}
LET_IN = "copy the head's ~/.ray/auth_token to this machine and set RAY_AUTH_MODE=token, or set RAY_AUTH_TOKEN"


def check_answers(address: str) -> None:
    """Ask the cluster at `address` for its ID.

    Args:
        address: as in `ray.init`. "local" is a cluster still to be started, which is not asked.

    Raises:
        InputError: no cluster can have such an address.
        ClusterUnreachable: no cluster answers within ANSWER_S, or it refuses this machine's token.
    """
    if address == "local":
        return
    target = _target(address)
    code, details = _ask(target)
    if code in _ANSWERED:
        return
    shown = _shown(address, target)
    if code is grpc.StatusCode.UNAUTHENTICATED:
        if address == "auto":  # then Ray looks for a token by itself
            return
        raise ClusterUnreachable(f"the Ray cluster at {shown} does not accept this machine's token: {LET_IN}")
    fault = next((text for words, text in _REMEDIES.items() if words in details), details)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        fault = (
            f"no answer within {ANSWER_S:g} s. A firewall, or a head that hangs: see `ray status` there, or {_ALONE}"
        )
    raise ClusterUnreachable(f"no Ray cluster answers at {shown}: {fault}")


def _target(address: str) -> str:
    """Return the host and the port that Ray would connect to."""
    scheme = urlsplit(address).scheme if "://" in address else ""
    if scheme in {"http", "https"}:
        raise InputError(
            f"{address} is where jobs are submitted: `ray job submit --address {address} -- raybench run …`. Its"
            f" cluster is at {_FORMS}"
        )
    if address.startswith(CLIENT):
        return address.removeprefix(CLIENT).rstrip("/")
    services.find_gcs_addresses.cache_clear()  # type: ignore[attr-defined]
    try:
        return services.canonicalize_bootstrap_address(address) or address
    except ConnectionError as error:
        raise ClusterUnreachable(
            f"no Ray cluster runs on this machine. Start one with `ray start --head`, name one, or {_ALONE}"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{address!r} is no address of a Ray cluster ({error}); give {_FORMS}") from error


def _shown(address: str, target: str) -> str:
    """Describe an address: where it comes from, if the user did not type it, and what Ray makes of it."""
    named = os.environ.get("RAY_ADDRESS", "")
    given = named or target if address == "auto" else address
    notes = []
    if named and address in {named, "auto"}:
        notes.append("from RAY_ADDRESS")
    elif address == "auto":
        notes.append("the latest `ray start` of this machine; `ray stop` forgets it")
    if target != given.removeprefix(CLIENT).rstrip("/"):  # it takes loopback for this machine's address
        notes.append(f"for Ray {target}")
    return f"{given} ({'; '.join(notes)})" if notes else given


def _ask(target: str) -> tuple[grpc.StatusCode, str]:
    """Call the cluster, and return the status with gRPC's words."""
    channel = init_grpc_channel(target, options=[("grpc.enable_http_proxy", 0)])  # as Ray itself connects
    stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)  # type: ignore[no-untyped-call]
    try:
        stub.GetClusterId(gcs_service_pb2.GetClusterIdRequest(), timeout=ANSWER_S)  # type: ignore[attr-defined]
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    except AuthenticationError as error:  # there is no token to send
        return grpc.StatusCode.UNAUTHENTICATED, str(error)
    finally:
        channel.close()
    return grpc.StatusCode.OK, ""

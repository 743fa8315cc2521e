"""The machines of a Ray cluster: connecting to them, and whether they can do the work.

Ray is an optional dependency, so it is imported inside functions.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_mechanism.checkpoints.contents import checked_files
from pytest_mechanism.checkpoints.reference import Reference
from pytest_mechanism.errors import MechanismError, first_line, one_line
from pytest_mechanism.runner.keys import versions
from pytest_mechanism.runner.worker import look_around

LOCAL = "local"
"""The address that starts a cluster on this machine."""

START = 50.0
"""Seconds in which a machine must answer, and a worker must come up."""

BASE_MEMORY = 1.0e9
"""Bytes of Python and the libraries in a worker."""


def connect(address: str) -> Any:
    """The module `ray`, connected to a cluster.

    Raises:
        MechanismError: there is no cluster at the address.
    """
    import ray

    if ray.is_initialized():
        return ray
    if ":" in address:  # Ray itself tries for minutes
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except (OSError, OverflowError) as problem:
            raise MechanismError(
                f"--mechanism-ray: nothing answers at {address}: {one_line(str(problem))}"
            ) from None
    try:
        ray.init(
            address=address,
            include_dashboard=False if address == LOCAL else None,
            log_to_driver=False,
            logging_level="ERROR",
        )
    except Exception as problem:
        raise MechanismError(
            f"--mechanism-ray: no cluster at {address}: {one_line(str(problem))[:300]}"
        ) from None
    return ray


def resources(references: Mapping[str, Reference], device: str) -> dict[str, float]:
    """What a worker needs: the largest checkpoint twice while it is read, and the libraries."""
    sizes = [
        sum(path.stat().st_size for path in checked_files(folder))
        for reference in references.values()
        for folder in folders_of(reference)
    ]
    gpu = {"GPU": 1} if device == "cuda" else {}
    return {"CPU": 1, "memory": BASE_MEMORY + 2 * max(sizes), **gpu}


def folders_of(reference: Reference) -> list[Path]:
    """The folders of a checkpoint: its model's, and its adapter's if it has one."""
    return [folder for folder in (reference.folder, reference.adapter) if folder is not None]


def room(has: Mapping[str, float], need: Mapping[str, float]) -> int:
    """How many workers a machine can have."""
    return min(int(has.get(name, 0) // amount) for name, amount in need.items())


def count_workers(
    ray: Any, references: Mapping[str, Reference], need: Mapping[str, float], address: str
) -> int:
    """How many workers the cluster has room for, all of whose machines can do the work. This machine can.

    Raises:
        MechanismError: a machine does not see a folder or has other libraries, or none has room for a worker.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    rooms = [room(node["Resources"], need) for node in nodes]
    if address != LOCAL:
        folders = [str(folder) for each in references.values() for folder in folders_of(each)]
        check_machines(
            ray, [node for node, places in zip(nodes, rooms, strict=True) if places], folders
        )
    if not any(rooms):
        together = {name: ray.cluster_resources().get(name, 0) for name in need}
        raise MechanismError(
            f"--mechanism-ray: no machine of the cluster has room for a worker, which needs "
            f"{spelled(need)}; it has {len(nodes)} machines with {spelled(together)} together"
        )
    return sum(rooms)


def check_machines(ray: Any, nodes: Sequence[Any], folders: Sequence[str]) -> None:
    """Checks the folders and libraries of each machine.

    Raises:
        MechanismError: a machine does not answer, does not see a folder or has other libraries.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(look_around)
    asked = {
        node["NodeManagerHostname"]: look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(folders)
        for node in nodes
    }
    for name, ref in asked.items():
        try:
            found = ray.get(ref, timeout=START)
        except Exception as problem:
            raise MechanismError(
                f"--mechanism-ray: the machine {name} cannot run pytest-mechanism: {why(problem)}"
            ) from None
        if found["missing"]:
            raise MechanismError(
                f"--mechanism-ray: the machine {name} does not see {found['missing'][0]}; checkpoints "
                "must lie in a folder that every machine of the cluster sees under the same name"
            )
        for library, version in versions().items():
            if found["versions"].get(library) != version:
                raise MechanismError(
                    f"--mechanism-ray: the machine {name} has {library} "
                    f"{found['versions'].get(library)}, this one has {version}; they must be equal"
                )


def why(problem: BaseException) -> str:
    """The first line of Ray's error, or of the error behind it: Ray's own text begins with a process number."""
    cause = getattr(problem, "cause", None)
    return first_line(cause if isinstance(cause, BaseException) else problem)


def spelled(resources: Mapping[str, float]) -> str:
    """``1 CPU, 1 GPU and 3.0 GB of memory``."""
    parts = [f"{resources[name]:g} {name}" for name in ("CPU", "GPU") if resources.get(name)]
    return " and ".join([", ".join(parts), f"{resources.get('memory', 0) / 1e9:.1f} GB of memory"])

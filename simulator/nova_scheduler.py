"""Nova's scheduler on the model: its real HostStates and weighers, in the order of its own code.

What ``_schedule`` in nova/scheduler/manager.py does for a request with several servers, without its
database and its calls of placement: the HostStates are made anew for each request from the hosts'
records (``_get_host_states`` in nova/scheduler/host_manager.py), one server after the other is
weighed by ``HostWeightHandler.get_weighed_objects``, the best host that placement still grants is
claimed and consumed from. A process works at many requests at once. What it leaves out: filters
other than room, cells, aggregates, alternates.

Four things are done for speed, and change no weight (a test compares them):

- a HostState is made anew from its record only where that changed; else it is copied;
- Nova's weighers read a copy of the options instead of oslo.config, which they ask for each host;
- no host is in an aggregate, so none is looked through for a multiplier of its own;
- Nova's handler is compiled from its source without what it does for its debug lines, which is a
  third of its time.
"""

from __future__ import annotations

import ast
import datetime
import importlib
import inspect
import logging
import pathlib
import pkgutil
import random
import textwrap
import types
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import nova.conf
import nova.scheduler.weights
import nova.weights
from nova import objects
from nova.scheduler import host_manager, utils
from oslo_config import cfg

from bus_cache import conf
from bus_cache.conf import image_cache_weigher
from simulator.cloud import Host, image_id
from simulator.trace import Request
from weigher import image_cache

CONF = nova.conf.CONF
objects.register_all()
# of a claim since the last periodic update it says that the host has more room than it should
logging.getLogger("nova.scheduler.host_manager").setLevel(logging.ERROR)
_EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


def configure(file: pathlib.Path) -> None:
    """Have this process take the weighers' options from a nova.conf; the product's, too.

    :raises ValueError: it can't be read, or has a value that can't be used, or an option of the
        product's groups that there is none of.
    """
    try:
        # nothing of a folder that this machine may have, as /etc/nova/nova.conf.d
        CONF([], project="nova", default_config_files=[str(file)], default_config_dirs=[])
        conf.register(CONF, image_cache.GROUPS)
        conf.check(CONF, image_cache.GROUPS)
        dict(CONF.filter_scheduler.items())  # each is checked where it is read
    except (cfg.Error, conf.ConfigurationError, ValueError) as error:
        raise ValueError(f"{file}: {' '.join(str(error).split())}") from error
    for sentence in conf.unknown(CONF, image_cache.GROUPS):
        raise ValueError(sentence)
    # what is measured there is the operator's own scheduler
    CONF.set_override("metrics_folder", "", group=image_cache_weigher.GROUP)


def prepare() -> None:
    """Make Nova's weighers faster in this process, which does nothing else."""
    for target, name, value in shortcuts():
        setattr(target, name, value)


def shortcuts() -> Iterator[tuple[Any, str, Any]]:
    """Yield what may be put in place of what: a module of Nova's, a name in it, and its value."""
    group = types.SimpleNamespace(**dict(CONF.filter_scheduler.items()))
    options = types.SimpleNamespace(filter_scheduler=group, metrics=CONF.metrics)
    package = nova.scheduler.weights
    for module in pkgutil.iter_modules(package.__path__):
        yield importlib.import_module(f"{package.__name__}.{module.name}"), "CONF", options
    whole = utils.get_weight_multiplier

    def multiplier(host_state: Any, name: str, configured: float) -> Any:
        return whole(host_state, name, configured) if host_state.aggregates else configured

    yield utils, "get_weight_multiplier", multiplier
    handler = nova.weights.BaseWeightHandler
    yield handler, "get_weighed_objects", _silent(handler.get_weighed_objects)


class _Silence(ast.NodeTransformer):
    """Takes debug lines out, and what is put together for them."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if ast.unparse(node).startswith("LOG.debug(") else node

    def visit_Assign(self, node: ast.Assign) -> ast.Assign | None:
        return None if ast.unparse(node).startswith("log_data") else node


def _silent(function: types.FunctionType) -> Any:
    """Return a function of Nova's, compiled from its source without its debug lines."""
    tree = _Silence().visit(ast.parse(textwrap.dedent(inspect.getsource(function))))
    names = dict(vars(inspect.getmodule(function)))
    exec(compile(ast.fix_missing_locations(tree), function.__code__.co_filename, "exec"), names)
    return names[function.__name__]


def default_weighers() -> list[Any]:
    """Return Nova's own weighers, as ``[filter_scheduler] weight_classes`` has them by default."""
    handler = nova.scheduler.weights.HostWeightHandler()
    classes = handler.get_matching_classes(["nova.scheduler.weights.all_weighers"])
    return [weigher() for weigher in sorted(classes, key=lambda each: str(each.__name__))]


class Worker:
    """One process of nova-scheduler."""

    def __init__(self, hosts: Sequence[Host], weighers: Sequence[Any], seed: int) -> None:
        """:param seed: decides the order in which hosts of one weight stand: Nova has them in the
        order of a Python set, which is arbitrary but stays in a process.
        """
        self._handler = nova.scheduler.weights.HostWeightHandler()
        self._weighers = list(weighers)
        self._hosts = list(hosts)
        random.Random(f"order {seed}").shuffle(self._hosts)
        self._states: dict[int, tuple[int, Any]] = {}
        self._by_name = {host.name: host for host in hosts}
        self._record = _Record()

    def begin(self, request: Request) -> Choice:
        """Make HostStates for a request, of the hosts that placement names."""
        states = [self._state(host) for host in self._hosts if host.fits(request)]
        return Choice(self, request, states)

    def weigh(self, states: list[Any], spec: Any) -> list[Any]:
        """Return what Nova makes of HostStates, best first."""
        weighed = self._handler.get_weighed_objects(self._weighers, states, spec)
        return [each.obj for each in weighed]

    def host(self, state: Any) -> Host:
        """Return the host that a HostState is of."""
        return self._by_name[state.host]

    def _state(self, host: Host) -> Any:
        """Return a HostState for one request: it goes when the request is through, as Nova's do."""
        version, kept = self._states.get(host.index, (None, None))
        if version != host.version:
            kept = self._record.state(host)
            self._states[host.index] = host.version, kept
        state = host_manager.HostState.__new__(host_manager.HostState)
        vars(state).update(vars(kept))
        return state


class Choice:
    """Hosts for the servers of one request, one after the other."""

    def __init__(self, worker: Worker, request: Request, states: list[Any]) -> None:
        self._worker, self._request, self._states = worker, request, states
        self._spec = request_spec(request)
        self._chosen: Any = None

    @property
    def candidates(self) -> int:
        """How many hosts are weighed."""
        return len(self._states)

    def best(self) -> Host | None:
        """Weigh for one server; return the best host on which it can be allocated.

        None: there is none. Others may weigh before :meth:`consume`, as others of Nova's threads
        while one claims in placement.
        """
        self._states = self._worker.weigh(self._states, self._spec)
        for state in self._states:
            host = self._worker.host(state)
            if host.fits(self._request):
                self._chosen = state
                return host
        return None

    def consume(self) -> None:
        """Have the request's own HostState of the host that was chosen know of it."""
        self._chosen.consume_from_request(self._spec)


class _Record:
    """Nova's ComputeNode, filled from a host of the model."""

    def __init__(self) -> None:
        self._node = objects.ComputeNode(
            uuid=str(uuid.UUID(int=0)),
            updated_at=_EPOCH,
            host_ip="192.0.2.1",
            hypervisor_type="QEMU",
            hypervisor_version=8002002,
            cpu_info="",
            numa_topology=None,
            pci_device_pools=None,
            supported_hv_specs=[],
            metrics="[]",
        )

    def state(self, host: Host) -> Any:
        """Return a new HostState, as Nova makes it from the host's record."""
        node = self._node
        vcpus, ram, disk = host.claimed
        node.host = node.hypervisor_hostname = host.name
        node.vcpus = host.vcpus
        node.memory_mb = host.ram_mb
        node.local_gb = host.disk_gb
        node.vcpus_used = vcpus
        node.memory_mb_used = ram
        node.free_ram_mb = host.ram_mb - ram
        node.local_gb_used = disk
        node.free_disk_gb = host.disk_gb - disk
        node.disk_available_least = host.disk_available_least
        node.stats = {
            "num_instances": str(host.num_instances),
            "io_workload": str(host.building),
            "failed_builds": "0",
        }
        node.cpu_allocation_ratio = host.cpu_allocation_ratio
        node.ram_allocation_ratio = node.disk_allocation_ratio = 1.0
        state = host_manager.HostState(host.name, host.name, None)
        state.update(compute=node, service={}, aggregates=[], inst_dict={})
        return state


def request_spec(request: Request) -> Any:
    """Return Nova's RequestSpec for a request."""
    return objects.RequestSpec(
        is_bfv=False,
        image=objects.ImageMeta(
            id=image_id(request.image),
            size=request.image_bytes,
            disk_format="qcow2",
            properties=objects.ImageMetaProps(),
        ),
        flavor=objects.Flavor(
            vcpus=request.vcpus,
            memory_mb=request.ram_mb,
            root_gb=request.disk_gb,
            ephemeral_gb=0,
            swap=0,
        ),
        num_instances=request.count,
        pci_requests=None,
        numa_topology=None,
        instance_group=None,
        requested_destination=None,
    )

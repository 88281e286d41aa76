"""vCenter, spoken to with oslo.vmware: a session that ends and begins again, every call bounded.

oslo.vmware's own ``VMwareAPISession`` is not used: while vCenter is away it logs in again without
end, in eventlet's loop. Here what fails is told, and tried again at the next scan.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from oslo_config import cfg

from bus_cache.agent.inventory import Unreadable
from bus_cache.conf import ConfigurationError

try:
    from oslo_vmware import exceptions, vim, vim_util
except ImportError:  # told when it is needed
    vim = None

CALL_SECONDS = 30.0
"""The longest wait for a connection to vCenter, and for each part of an answer."""

SEARCH_SECONDS = 120.0
"""The longest wait for the search of one folder."""

REFUSED_SECONDS = 300.0
"""No log-in for so long after a refused one: vCenter locks an account after five in three minutes,
and it is nova-compute's."""

# Not vCenter's own, which costs 40 MB and more.
_WSDL = pathlib.Path(__file__).with_name("vim.wsdl")

_Result = TypeVar("_Result")


class VCenter:
    """One vCenter, as nova.conf's ``[vmware]`` names it."""

    def __init__(self, options: cfg.ConfigOpts.GroupAttr) -> None:
        """Connect to nothing yet.

        :param options: ``[vmware]``.
        :raises bus_cache.conf.ConfigurationError: oslo.vmware is not installed.
        """
        if vim is None:
            raise ConfigurationError(
                "The inventory driver vmware needs oslo.vmware: pip install 'bus-cache[vmware]'"
            )
        logging.getLogger("suds").setLevel(logging.INFO)  # it would log the password
        self._options = options
        self._vim: Any = None
        self._refused = float("-inf")

    def __str__(self) -> str:
        """Return its address, for people."""
        return f"vCenter {self._options.host_ip}:{self._options.host_port}"

    def run(self, work: Callable[[], _Result]) -> _Result:
        """Return what ``work`` does with a session: with a new one where an old one has ended.

        :raises Unreadable: it can't be done for now.
        """
        kept = self._vim is not None
        try:
            if not kept:
                self._log_in()
            return work()
        except exceptions.VMwareDriverException as error:
            self._end(reachable=not isinstance(error, exceptions.VimConnectionException))
            if kept:  # vCenter ended our session, or was restarted
                return self.run(work)
            raise Unreadable(self._line(error)) from None

    def close(self) -> None:
        """Log out."""
        self._end(reachable=True)

    def _log_in(self) -> None:
        wait = self._refused + REFUSED_SECONDS - time.monotonic()
        if wait > 0:
            raise Unreadable(f"{self._refusal()}; tried again in {wait:.0f} s")
        fresh = vim.Vim(
            host=self._options.host_ip,
            port=self._options.host_port,
            wsdl_url=f"file://{_WSDL}",
            cacert=self._options.ca_file,
            insecure=self._options.insecure,
            connection_timeout=CALL_SECONDS,
            op_id_prefix="bus-cache-agent",
        )
        fresh.Login(
            fresh.service_content.sessionManager,
            userName=self._options.host_username,
            password=self._options.host_password,
            locale="en",
        )
        self._vim = fresh

    def _end(self, reachable: bool) -> None:
        """Forget the session, and let vCenter forget it where it can be reached."""
        ended, self._vim = self._vim, None
        if ended is not None and reachable:
            with contextlib.suppress(exceptions.VMwareDriverException):
                ended.Logout(ended.service_content.sessionManager)

    def _refusal(self) -> str:
        return f"{self} refuses the user {self._options.host_username} or the password"

    def _line(self, error: Exception) -> str:
        """Return an error of oslo.vmware on one line."""
        faults = getattr(error, "fault_list", ())
        if "InvalidLogin" in faults:
            self._refused = time.monotonic()
            return self._refusal()
        if exceptions.NOT_AUTHENTICATED in faults:  # oslo.vmware's word for an empty answer, too
            return f"{self} shows the user {self._options.host_username} nothing"
        if isinstance(error, exceptions.VimConnectionException):
            return f"{self} can't be reached: {_short(error.cause)}"
        return f"{self}: {_short(error)}"

    # -- questions, for use in run() -------------------------------------------------------

    def clusters(self, *paths: str) -> Iterator[dict[str, Any]]:
        """Yield properties of each cluster in vCenter's tree of folders."""
        factory = self._vim.client.factory
        folder = vim_util.build_selection_spec(factory, "folder")
        hosts = vim_util.build_traversal_spec(
            factory, "hosts", "Datacenter", "hostFolder", False, [folder]
        )
        inner = vim_util.build_traversal_spec(
            factory, "folder", "Folder", "childEntity", False, [folder, hosts]
        )
        content = self._vim.service_content
        question = vim_util.build_property_filter_spec(
            factory,
            [vim_util.build_property_spec(factory, "ClusterComputeResource", list(paths))],
            [vim_util.build_object_spec(factory, content.rootFolder, [inner])],
        )
        most = factory.create("ns0:RetrieveOptions")
        most.maxObjects = self._options.maximum_objects or 100
        yield from self._properties(
            self._vim.RetrievePropertiesEx(
                content.propertyCollector, specSet=[question], options=most
            )
        )

    def datastores(self, references: Sequence[Any], *paths: str) -> Iterator[dict[str, Any]]:
        """Yield properties of some datastores."""
        yield from self._properties(
            vim_util.get_properties_for_a_collection_of_objects(
                self._vim, "Datastore", references, list(paths)
            )
        )

    def _properties(self, result: Any) -> Iterator[dict[str, Any]]:
        """Yield the properties of each object of an answer, however many parts it comes in."""
        with vim_util.WithRetrieval(self._vim, result) as objects:
            for each in objects:
                yield vim_util.propset_dict(getattr(each, "propSet", None))

    def folders(self, browser: Any, path: str) -> Sequence[Any]:
        """Return a datastore's folder, and all below it; nothing where it does not exist."""
        found = self._search("SearchDatastoreSubFolders_Task", browser, path)
        # A folder below that is removed meanwhile may be told like one that does not exist.
        if found is None and self._search("SearchDatastore_Task", browser, path) is not None:
            raise Unreadable(f"{self}: {path} changed while it was listed")
        folders: Sequence[Any] = getattr(found, "HostDatastoreBrowserSearchResults", ())
        return folders

    def _search(self, method: str, browser: Any, path: str) -> Any:
        """Return what a search of a datastore found; None where something does not exist."""
        factory = self._vim.client.factory
        question = factory.create("ns0:HostDatastoreBrowserSearchSpec")
        question.matchPattern = ["*"]
        question.details = factory.create("ns0:FileQueryFlags")
        question.details.fileType = question.details.fileOwner = False
        question.details.fileSize = question.details.modification = True
        task = getattr(self._vim, method)(browser, datastorePath=path, searchSpec=question)
        end = time.monotonic() + SEARCH_SECONDS
        while True:
            state = vim_util.get_object_property(self._vim, task, "info.state", skip_op_id=True)
            if state == "success":
                return vim_util.get_object_property(self._vim, task, "info.result")
            if state == "error":
                error = vim_util.get_object_property(self._vim, task, "info.error")
                if type(error.fault).__name__ == "FileNotFound":
                    return None
                raise exceptions.VimException(f"{path}: {error.localizedMessage}")
            if time.monotonic() > end:
                with contextlib.suppress(exceptions.VMwareDriverException):
                    self._vim.CancelTask(task)
                raise Unreadable(f"{self}: {path} was not listed in {SEARCH_SECONDS:.0f} s")
            time.sleep(self._options.task_poll_interval)


def _short(error: object) -> str:
    return " ".join(str(error).split())[:300]

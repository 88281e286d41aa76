"""The names that everything agrees on: fingerprints, valid hosts and images, Redis keys."""

import hashlib
import re

KEYSPACE_PATTERN = re.compile(r"[A-Za-z0-9_.-]+\Z")
_NAME_PATTERN = re.compile(r"[\x21-\x7e]{1,255}\Z")
_FINGERPRINT_PATTERN = re.compile(r"[0-9a-f]{40}\Z")


def fingerprint(image_id: str) -> str:
    """Return the fingerprint of an image: the hex SHA-1 of its id.

    It is what Nova calls the image's file in a host's cache
    (nova/virt/libvirt/imagecache.py, ``get_cache_fname``), so that a folder on a host
    and a message on the bus name an image alike.
    """
    return hashlib.sha1(image_id.encode(), usedforsecurity=False).hexdigest()


def is_fingerprint(text: str) -> bool:
    """Tell whether a text has the form of a fingerprint: 40 lower-case hex digits."""
    return _FINGERPRINT_PATTERN.match(text) is not None


def is_valid_name(text: object) -> bool:
    """Tell whether a value can be a host's name or an image's id.

    Printable ASCII without spaces, 1 to 255 characters: Nova's ``host`` column holds 255, Glance's
    ids are 36. All else never reaches a key.
    """
    return isinstance(text, str) and _NAME_PATTERN.match(text) is not None


class Keys:
    """The names of the keys of one keyspace.

    All carry the same hash tag, ``{<keyspace>}``, so that they share one slot of a Redis Cluster
    and one script can change several of them at once.

    ========================  ======  =============================================================
    key                       type    meaning
    ========================  ======  =============================================================
    ``image:<fingerprint>``   SET     **public**: the hosts that hold the image
    ``schema``                STRING  version of all the keys below; see :data:`SCHEMA`
    ``images``                HASH    raw fingerprint -> msgpack [id, size in bytes or false, last
                                      day of evidence since 1970]: what is known of images
    ``host:<host>``           HASH    raw fingerprint -> msgpack [stamp in ms, source]: the newest
                                      evidence that this host holds the image; where it came late,
                                      when, else false; and where it does not touch a file that is
                                      there, the stamp of the newest that does
    ``hosts``                 ZSET    host -> stamp in ms of the newest evidence about it; not of
                                      hosts whose agent decides, but where Nova's is the newest
    ``agent:<host>``          HASH    raw fingerprint -> '' (it was in the agent's last snapshot) or
                                      msgpack [epoch, sequence, held, stamp in ms] (what the agent
                                      said later). While the agent reports, it decides the public
                                      sets, and ``host:<host>`` holds what Nova said since
    ``agents``                HASH    host -> msgpack [epoch, sequence up to which nothing is
                                      missing, epoch (false: the same) and sequence of the last
                                      snapshot, stamp in ms
                                      of the newest word, whether it decides, bus, sequences
                                      beyond a gap, ms by the consumers' clocks when it was heard]
    ``silent``                ZSET    host -> ms when its agent was last heard, of those that said
                                      goodbye, or are thought dead
    ``gaps``                  ZSET    host -> ms since when a part of its agent's words is missing,
                                      or when the agent is asked again
    ``listening``             HASH    bus -> ms when agents were last told that somebody reads;
                                      ``server`` -> run_id of the Redis that it was on then;
                                      ``look:<bus>`` -> where the next look for silent agents begins
    ``coming:<fingerprint>``  ZSET    host -> ms until which the image is on its way, at the most;
                                      minus the same: it failed, and a beginning of before does not
                                      count; expires
    ``uses:<host>``           HASH    raw server id -> msgpack [stamp in ms, raw fingerprints, ...]:
                                      since when the server used which images there (its own, then
                                      kernel and ramdisk), or, empty, that it left; the newest first
    ``services``              HASH    host -> msgpack [stamp in ms, whether nova-compute is up]
    ``ageing``                ZSET    host -> oldest stamp of a change since the last ageing sweep;
                                      with a half: one is at work, and nothing changed since
    ``claim:<name>``          STRING  one consumer does this now; expires
    ``wanted:<name>``         STRING  why this is to be done; goes when it is done (``reconcile``:
                                      the comparison with Nova's API)
    ``readers``               ZSET    msgpack [name, bus, pool] of a consumer that reads its queue
                                      -> ms until which that counts
    ``full``                  HASH    name of a limit -> statements that were left out since there
                                      was no room: see prelude.lua
    ``adopt``                 STRING  while a keyspace of schema 1 is taken over: how far
    ``gone:image:<fp>``       STRING  the image was deleted; expires
    ``gone:host:<host>``      STRING  stamp in ms at which the compute service was deleted; expires
    ========================  ======  =============================================================
    """

    def __init__(self, keyspace: str) -> None:
        """Take the keyspace's name; ValueError where it can't be one."""
        if not KEYSPACE_PATTERN.match(keyspace):
            raise ValueError(
                f"{keyspace[:60]!r} is no keyspace: letters, digits, '_', '.' and '-' only, at "
                "least one"
            )
        self.prefix = f"{{{keyspace}}}:"
        self.schema = self.prefix + "schema"
        self.images = self.prefix + "images"
        self.hosts = self.prefix + "hosts"
        self.agents = self.prefix + "agents"
        self.services = self.prefix + "services"
        self.readers = self.prefix + "readers"

    def image(self, image_fingerprint: str) -> str:
        """Return the public key of an image's SET of hosts."""
        return f"{self.prefix}image:{image_fingerprint}"

    def host(self, host: str) -> str:
        """Return the key of a host's HASH of evidence."""
        return f"{self.prefix}host:{host}"

    def agent(self, host: str) -> str:
        """Return the key of what a host's agent said is in its cache."""
        return f"{self.prefix}agent:{host}"

    def uses(self, host: str) -> str:
        """Return the key of which servers use which images on a host."""
        return f"{self.prefix}uses:{host}"

    def coming(self, image_fingerprint: str) -> str:
        """Return the key of the hosts to which an image is on its way."""
        return f"{self.prefix}coming:{image_fingerprint}"

    def claim(self, name: str) -> str:
        """Return the key by which one consumer claims a task."""
        return f"{self.prefix}claim:{name}"

    def wanted(self, name: str) -> str:
        """Return the key that remembers why a task is to be done."""
        return f"{self.prefix}wanted:{name}"

    def gone_image(self, image_fingerprint: str) -> str:
        """Return the key that remembers an image's deletion."""
        return f"{self.prefix}gone:image:{image_fingerprint}"

    def gone_host(self, host: str) -> str:
        """Return the key that remembers the deletion of a host's compute service."""
        return f"{self.prefix}gone:host:{host}"


SCHEMA = 3
"""Version of the keys other than the public sets. Grows when their meaning changes. A keyspace of
an older version is taken over as it is: version 1 knew fewer keys, 2 kept in ``heard`` what is in
``agents`` now. Who knows only an older version refuses this one."""

OLDER_SCHEMAS = (1, 2)
"""Versions whose keys this one can read."""

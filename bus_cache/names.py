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
                                      evidence that this host holds the image
    ``hosts``                 ZSET    host -> stamp in ms of the newest evidence that it gave
    ``gone:image:<fp>``       STRING  the image was deleted; expires
    ``gone:host:<host>``      STRING  stamp in ms at which the compute service was deleted; expires
    ========================  ======  =============================================================
    """

    def __init__(self, keyspace: str) -> None:
        """Take the keyspace's name; ValueError where it can't be one."""
        if not KEYSPACE_PATTERN.match(keyspace):
            raise ValueError(
                f"{keyspace!r} is no keyspace: letters, digits, '_', '.' and '-' only, at least one"
            )
        self.prefix = f"{{{keyspace}}}:"
        self.schema = self.prefix + "schema"
        self.images = self.prefix + "images"
        self.hosts = self.prefix + "hosts"

    def image(self, image_fingerprint: str) -> str:
        """Return the public key of an image's SET of hosts."""
        return f"{self.prefix}image:{image_fingerprint}"

    def host(self, host: str) -> str:
        """Return the key of a host's HASH of evidence."""
        return f"{self.prefix}host:{host}"

    def gone_image(self, image_fingerprint: str) -> str:
        """Return the key that remembers an image's deletion."""
        return f"{self.prefix}gone:image:{image_fingerprint}"

    def gone_host(self, host: str) -> str:
        """Return the key that remembers the deletion of a host's compute service."""
        return f"{self.prefix}gone:host:{host}"


SCHEMA = 1
"""Version of the keys other than the public sets. Grows when their meaning changes."""

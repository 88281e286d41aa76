"""Makes a large cloud out of a small one: a real server's rows, copied many times in Nova's
databases.

``python -m tests.lab.many --servers 50000 --hosts 500`` while ``python -m tests.lab up`` runs and
has a server. Nova's API then lists the copies as it lists its own; they exist nowhere else.
"""

from __future__ import annotations

import argparse
import configparser
from pathlib import Path

import pymysql
import sqlalchemy.engine

from tests.lab.__main__ import DIRECTORY

#: Table -> column -> what to write there instead of the copied row's value. The copy's number is
#: ``seq``, from MariaDB's own engine of sequences.
UUID = (
    "INSERT(INSERT(INSERT(INSERT(MD5(CONCAT('server', seq)),9,0,'-'),14,0,'-'),19,0,'-'),24,0,'-')"
)
IMAGE = (
    "INSERT(INSERT(INSERT(INSERT(MD5(CONCAT('image', seq % {images})),9,0,'-'),14,0,'-'),19,0,'-'),"
    "24,0,'-')"
)
HOST = "CONCAT('many-', seq % {hosts})"
OF_A_SERVER: dict[str, dict[str, dict[str, str]]] = {
    "nova": {
        "instances": {
            "uuid": UUID,
            "image_ref": IMAGE,
            "host": HOST,
            "node": HOST,
            "hostname": "CONCAT('many-', seq)",
            "display_name": "CONCAT('many-', seq)",
            "created_at": "DATE_SUB(t.created_at, INTERVAL seq SECOND)",
        },
        "instance_extra": {"instance_uuid": UUID},
        "instance_info_caches": {"instance_uuid": UUID},
        "instance_system_metadata": {"instance_uuid": UUID},
        "block_device_mapping": {"instance_uuid": UUID, "uuid": "UUID()"},
    },
    "nova_api": {"instance_mappings": {"instance_uuid": UUID}},
}
OF_A_HOST: dict[str, dict[str, dict[str, str]]] = {
    "nova": {"services": {"host": HOST, "uuid": "UUID()"}},
    "nova_api": {"host_mappings": {"host": HOST}},
}


class Databases:
    """Nova's two databases, with the rights that Nova has."""

    def __init__(self, config: Path) -> None:
        """``config``: the control plane's nova.conf."""
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        parser.read(config)
        self._urls = {
            "nova": sqlalchemy.engine.make_url(parser["database"]["connection"]),
            "nova_api": sqlalchemy.engine.make_url(parser["api_database"]["connection"]),
        }

    def execute(self, database: str, statement: str) -> list[tuple[str, ...]]:
        url = self._urls[database]
        with (
            pymysql.connect(
                host=url.host or "",
                port=url.port or 0,
                user=url.username,
                password=url.password or "",
                database=url.database,
                autocommit=True,
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)
            return list(cursor.fetchall())

    def copy(
        self, database: str, table: str, changed: dict[str, str], where: str, first: int, last: int
    ) -> None:
        """Copy the rows of ``where`` once for each number from ``first`` to ``last``."""
        columns = [row[0] for row in self.execute(database, f"SHOW COLUMNS FROM {table}")]
        columns.remove("id")
        values = ", ".join(changed.get(column, f"t.`{column}`") for column in columns)
        names = ", ".join(f"`{column}`" for column in columns)
        self.execute(
            database,
            f"INSERT INTO {table} ({names}) "
            f"SELECT {values} FROM {table} t, seq_{first}_to_{last} WHERE {where}",
        )


def multiply(config: Path, servers: int, hosts: int, images: int = 200) -> None:
    """Add so many servers to a lab, on so many hosts of their own, of so many images.

    A server that runs is the model. The copies' hosts are up for as long as Nova counts a service
    as up that last reported now.
    """
    databases = Databases(config)
    model, host = databases.execute(
        "nova",
        "SELECT uuid, host FROM instances WHERE deleted = 0 AND host IS NOT NULL LIMIT 1",
    )[0]

    def formatted(changed: dict[str, str]) -> dict[str, str]:
        return {name: text.format(hosts=hosts, images=images) for name, text in changed.items()}

    for database, tables in OF_A_HOST.items():
        for table, changed in tables.items():
            databases.copy(database, table, formatted(changed), f"t.host = '{host}'", 0, hosts - 1)
    for database, tables in OF_A_SERVER.items():
        for table, changed in tables.items():
            column = "uuid" if table == "instances" else "instance_uuid"
            databases.copy(
                database, table, formatted(changed), f"t.{column} = '{model}'", 1, servers
            )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.many", description=__doc__)
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help="of the lab")
    parser.add_argument("--servers", type=int, default=50_000)
    parser.add_argument("--hosts", type=int, default=500)
    arguments = parser.parse_args()
    multiply(arguments.directory / "etc" / "nova" / "nova.conf", arguments.servers, arguments.hosts)


if __name__ == "__main__":
    main()

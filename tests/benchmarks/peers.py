"""Point 4: the same work by others, from Python, side by side with one client.

A request for one unit of anybody's day limit, which is far away, goes to each in turn: the
product, full and relaxed, with an idempotency key where the peer takes one; `limits`,
`throttled-py` and `pyrate-limiter` as their manuals have it; Redis and PostgreSQL by hand, with
a counter and its guard, an entry
and a unique key in one script or statement. Servers are started here, on loopback, in folders
that go with them; what is not installed is skipped and said. The libraries come with the
extra `bench`.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from bench import Figure, Options, Subject, Taken, in_turn, progress, ratios, steps, thousands
from deciding import LIMIT, Product, name_of, new_key

POINT = "4 peers"
# Beside those that take no idempotency key, so that they do the same work.
KEYLESS = "relaxed without a key"
USERS = 1000
# Fewer, because it has a bucket of its own, here a table, for each.
PYRATE_USERS = 100
DEADLINE_S = 30.0

REDIS_TAKE = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 1 end
local used = tonumber(redis.call('GET', KEYS[1]) or '0')
if used + tonumber(ARGV[1]) > tonumber(ARGV[2]) then return 0 end
redis.call('INCRBY', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], 172800)
local entry = redis.call('XADD', KEYS[3], '*', 'u', KEYS[1], 'n', ARGV[1])
redis.call('SET', KEYS[2], entry, 'EX', 2592000)
return 1
"""
POSTGRES_TABLES = """
CREATE TABLE counter (
  user_id bigint, day date, used bigint NOT NULL CHECK (used >= 0), PRIMARY KEY (user_id, day)
) WITH (fillfactor = 50);
CREATE TABLE entry (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(),
  user_id bigint NOT NULL, amount bigint NOT NULL
);
CREATE TABLE idempotency_key (key text PRIMARY KEY, entry_id bigint NOT NULL);
"""
POSTGRES_TAKE = """
WITH known AS (SELECT entry_id FROM idempotency_key WHERE key = %(key)s),
taken AS (
  INSERT INTO counter AS c (user_id, day, used)
  SELECT %(user)s, current_date, %(amount)s WHERE NOT EXISTS (SELECT FROM known)
  ON CONFLICT (user_id, day) DO UPDATE SET used = c.used + excluded.used
  WHERE c.used + excluded.used <= %(limit)s
  RETURNING user_id
),
entered AS (
  INSERT INTO entry (user_id, amount) SELECT user_id, %(amount)s FROM taken RETURNING id
)
INSERT INTO idempotency_key (key, entry_id) SELECT %(key)s, id FROM entered RETURNING entry_id
"""


class Peer(NamedTuple):
    """One to be compared with: the product's durability that is put beside it, the promise,
    what it is without, and a request for a unit; or None and why it is not there."""

    name: str
    beside: str
    bound: float | None
    lacks: str
    request: Callable[[], object] | None
    why: str = ""


def measure(options: Options) -> Iterator[Figure]:
    with ExitStack() as stack:
        peers = [*redis_peers(stack, options), *pyrate_peers(stack, options)]
        peers += postgres_peers(stack)
        products = {
            durability: Product(options.folder / f"peers-{durability}.db", durability, USERS)
            for durability in ("full", "relaxed")
        }
        count = options.few(5, 50)
        subjects: dict[str, Subject] = {
            "full": product_requests(products["full"], count, keyed=True),
            "relaxed": product_requests(products["relaxed"], count, keyed=True),
            KEYLESS: product_requests(products["relaxed"], count, keyed=False),
        }
        for peer in peers:
            if peer.request is not None:
                subjects[peer.name] = requests(peer.request, count)
        progress(f"peers: {', '.join(subjects)}")
        taken = in_turn(subjects, runs=options.runs, slices=options.few(2, 20), warm=2)
        for product in products.values():
            product.q.close()
    for peer in peers:
        yield figure_of(peer, peer.beside, taken, bound=peer.bound)
        if peer.beside == KEYLESS and peer.bound is not None:
            # With a key it is more work than the peer's.
            yield figure_of(peer, "relaxed", taken, bound=None)


def figure_of(peer: Peer, beside: str, taken: dict[str, Taken], *, bound: float | None) -> Figure:
    what = f"{beside}, to {peer.name}"
    if peer.request is None:
        return Figure(POINT, what, None, bound=bound, at_most=False, note=peer.why)
    speed = ratios(taken[peer.name], taken[beside])
    rates = (taken[name].per_second() for name in (beside, peer.name))
    return Figure(
        POINT,
        what,
        statistics.median(speed),
        bound=bound,
        at_most=False,
        beside=" to ".join(map(thousands, rates)),
        note=f"the peer is without {peer.lacks}",
        values=speed,
    )


def product_requests(product: Product, count: int, *, keyed: bool) -> Subject:
    anybody = random.Random(1).randrange
    return lambda: steps(
        lambda: product.consume(name_of(anybody(USERS)), 1, new_key() if keyed else None), count
    )


def requests(request: Callable[[], object], count: int) -> Subject:
    def ask() -> None:
        # One that denies would be quick for another reason.
        assert request()

    return lambda: steps(ask, count)


# ---- Redis


def redis_peers(stack: ExitStack, options: Options) -> Iterator[Peer]:
    """Libraries on Redis as most people run it, and scripts with and without its log."""
    counting = "durability, audit, idempotency; what it denies it writes too"
    plans: list[tuple[str, str, float | None, str]] = [
        ("limits on Redis, TCP", KEYLESS, 2.0, counting),
        ("limits on Redis, unix socket", KEYLESS, None, counting),
        ("throttled-py on Redis, TCP", KEYLESS, None, counting),
        ("throttled-py on Redis, unix socket", KEYLESS, None, counting),
        ("bare Redis Lua, no AOF, TCP", "relaxed", None, "durability, audit"),
        ("bare Redis Lua, AOF always, TCP", "full", 1.4, "audit"),
        ("pyrate-limiter on Redis, TCP", KEYLESS, None, "durability, audit, idempotency"),
    ]
    server = shutil.which("redis-server")
    if server is None or not installed("redis"):
        for name, beside, bound, lacks in plans:
            yield Peer(name, beside, bound, lacks, None, "skipped: no redis-server, or no `redis`")
        return
    made: dict[str, Callable[[], Callable[[], object]]] = {}
    tcp, unix = stack.enter_context(redis_server(server, appending=False))
    aof, _ = stack.enter_context(redis_server(server, appending=True))
    redis: Any = import_module("redis")
    made["limits on Redis, TCP"] = lambda: limits_request(tcp)
    made["limits on Redis, unix socket"] = lambda: limits_request(f"redis+unix://{unix}")
    made["throttled-py on Redis, TCP"] = lambda: throttled_request(tcp)
    made["throttled-py on Redis, unix socket"] = lambda: throttled_request(f"unix://{unix}")
    made["bare Redis Lua, no AOF, TCP"] = lambda: lua_request(redis.Redis.from_url(tcp))
    made["bare Redis Lua, AOF always, TCP"] = lambda: lua_request(redis.Redis.from_url(aof))
    made["pyrate-limiter on Redis, TCP"] = lambda: pyrate_request(
        lambda module, rates, user: module.RedisBucket.init(
            rates, redis.Redis.from_url(tcp), f"pyrate-{user}"
        )
    )
    for name, beside, bound, lacks in plans:
        yield peer_of(name, beside, bound, lacks, made[name])


def peer_of(
    name: str,
    beside: str,
    bound: float | None,
    lacks: str,
    make: Callable[[], Callable[[], object]],
) -> Peer:
    """With its request, if its library is there."""
    try:
        return Peer(name, beside, bound, lacks, make())
    except ImportError as error:
        return Peer(name, beside, bound, lacks, None, f"skipped: {error}")


@contextmanager
def redis_server(command: str, *, appending: bool) -> Iterator[tuple[str, str]]:
    """A server on a port and a socket of its own; their addresses."""
    redis: Any = import_module("redis")
    with tempfile.TemporaryDirectory(prefix="quotactl-redis-") as folder:
        port = free_port()
        unix = f"{folder}/redis.sock"
        settings = f"--bind 127.0.0.1 --port {port} --unixsocket {unix} --dir {folder}".split()
        settings += ["--save", "", "--appendonly", "yes" if appending else "no"]
        settings += ["--appendfsync", "always"]
        with running([command, *settings]):
            url = f"redis://127.0.0.1:{port}/0"
            wait_for(lambda: redis.Redis.from_url(url).ping())
            yield url, unix


def limits_request(url: str) -> Callable[[], object]:
    limits: Any = import_module("limits")
    strategy = import_module("limits.strategies").FixedWindowRateLimiter(
        import_module("limits.storage").storage_from_string(url)
    )
    day = limits.RateLimitItemPerDay(LIMIT)
    anybody = random.Random(1).randrange
    return lambda: strategy.hit(day, name_of(anybody(USERS)))


def throttled_request(url: str) -> Callable[[], object]:
    throttled: Any = import_module("throttled")
    limiter = throttled.Throttled(
        using=throttled.RateLimiterType.FIXED_WINDOW.value,
        quota=throttled.rate_limiter.per_day(LIMIT),
        store=throttled.RedisStore(server=url),
    )
    anybody = random.Random(1).randrange
    return lambda: not limiter.limit(name_of(anybody(USERS))).limited


def lua_request(client: Any) -> Callable[[], object]:
    take = client.register_script(REDIS_TAKE)
    anybody = random.Random(1).randrange

    def request() -> object:
        keys = [f"used:{anybody(USERS)}", f"key:{new_key()}", "entries"]
        return take(keys=keys, args=[1, LIMIT])

    return request


# ---- pyrate-limiter


def pyrate_peers(_stack: ExitStack, options: Options) -> Iterator[Peer]:
    """On SQLite as it comes, and with the lock file that several processes need."""
    for name, beside, locked in (
        ("pyrate-limiter on SQLite", "full", False),
        ("pyrate-limiter on SQLite, WAL and lock file", KEYLESS, True),
    ):
        path = options.folder / f"pyrate-{locked}.db"
        lacks = "audit, idempotency" if not locked else "durability, audit, idempotency"
        yield peer_of(
            name,
            beside,
            3.0,
            lacks,
            lambda p=path, x=locked: pyrate_on_sqlite(p, locked=x),  # type: ignore[misc]
        )


def pyrate_on_sqlite(path: Path, *, locked: bool) -> Callable[[], object]:
    if locked:
        import_module("filelock")
    return pyrate_request(
        lambda module, rates, user: module.SQLiteBucket.init_from_file(
            rates, table=f"bucket_{user}", db_path=str(path), use_file_lock=locked
        )
    )


def pyrate_request(make: Callable[[Any, Any, int], Any]) -> Callable[[], object]:
    """A bucket of its own for each user, as the library wants it."""
    module: Any = import_module("pyrate_limiter")
    rates = [module.Rate(LIMIT, module.Duration.DAY)]
    # Without the thread that clears up old items: there are none.
    factories = [
        module.SingleBucketFactory(make(module, rates, user), schedule_leak=False)
        for user in range(PYRATE_USERS)
    ]
    limiters = [module.Limiter(factory) for factory in factories]
    anybody = random.Random(1).randrange
    # Never waits, as the limit is far away; told not to, it stumbles over its own lock file.
    return lambda: limiters[anybody(PYRATE_USERS)].try_acquire("image")


# ---- PostgreSQL


def postgres_peers(stack: ExitStack) -> Iterator[Peer]:
    """One statement that does it all, waiting for the disk and not."""
    plans = [
        ("PostgreSQL, one statement", "full", 1.3, "audit", "on"),
        ("PostgreSQL, synchronous_commit off", "relaxed", None, "durability, audit", "off"),
    ]
    folder = postgres_programs()
    if folder is None or not installed("psycopg"):
        for name, beside, bound, lacks, _ in plans:
            yield Peer(name, beside, bound, lacks, None, "skipped: no postgres, or no `psycopg`")
        return
    address = stack.enter_context(postgres_server(folder))
    for name, beside, bound, lacks, committing in plans:
        yield Peer(name, beside, bound, lacks, postgres_request(stack, address, committing))


def postgres_programs() -> Path | None:
    """The folder of `postgres` and `initdb`."""
    found = shutil.which("postgres")
    folders = [] if found is None else [Path(found).resolve().parent]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((f for f in folders if (f / "initdb").exists() and (f / "postgres").exists()), None)


@contextmanager
def postgres_server(programs: Path) -> Iterator[str]:
    """A cluster of its own; how to connect to it."""
    psycopg: Any = import_module("psycopg")
    with tempfile.TemporaryDirectory(prefix="quotactl-postgres-") as folder:
        # It refuses to be run by root.
        user = "postgres" if os.geteuid() == 0 else None
        if user is not None:
            shutil.chown(folder, user)
        data, port = f"{folder}/data", free_port()
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "quota", "-A", "trust", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            user=user,
            cwd=folder,
        )
        command = [str(programs / "postgres"), "-D", data, "-p", str(port), "-k", folder]
        with running([*command, "-c", "listen_addresses=127.0.0.1"], user=user):
            address = f"host=127.0.0.1 port={port} user=quota dbname=postgres"

            def up() -> bool:
                with psycopg.connect(address, autocommit=True) as connection:
                    connection.execute("SELECT 1")
                return True

            wait_for(up)
            with psycopg.connect(address, autocommit=True) as connection:
                connection.execute(POSTGRES_TABLES)
            yield address


def postgres_request(stack: ExitStack, address: str, committing: str) -> Callable[[], object]:
    psycopg: Any = import_module("psycopg")
    connection = stack.enter_context(psycopg.connect(address, autocommit=True))
    connection.execute(f"SET synchronous_commit = {committing}")
    cursor = connection.cursor()
    anybody = random.Random(1).randrange

    def request() -> object:
        values = {"key": new_key(), "user": anybody(USERS), "amount": 1, "limit": LIMIT}
        return cursor.execute(POSTGRES_TAKE, values, prepare=True).fetchone()

    return request


# ---- servers


def installed(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def running(command: list[str], *, user: str | None = None) -> Iterator[None]:
    """A server while the block lasts; never longer."""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=user
    ) as process:
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for(up: Callable[[], object]) -> None:
    """Until a server answers."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        with suppress(Exception):
            if up():
                return
        time.sleep(0.05)
    raise TimeoutError(f"no server within {DEADLINE_S:.0f} s")

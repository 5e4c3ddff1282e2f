"""Keys: what is kept, what is compared, what ends, and what never shows."""

import logging
import os
import random
import threading
import time

import pytest

pytest.importorskip("sqlalchemy", reason='no database: pip install "llmguide[enterprise]"')
from sqlalchemy import update

from llmguide.enterprise.access import ACTIONS, ROLES, KeyStore, Principal, allows, api_keys
from llmguide.enterprise.database import open_database


@pytest.fixture
def store(tmp_path):
    """A store of keys in a file."""
    engine = open_database(f"sqlite:///{tmp_path / 'keys.sqlite'}")
    yield KeyStore(engine)
    engine.dispose()


def test_a_key_brings_its_principal_and_no_changed_key_does(store):
    """Any one character changed, left out or added: no principal."""
    key = store.create("ann", ["reader", "agent"], ["finance", "财务"])
    assert store.authenticate(str(key)) == Principal("ann", ["agent", "reader"], ["财务", "finance"])
    draw = random.Random(1)
    for _ in range(300):
        place, letter = draw.randrange(len(key)), draw.choice("abcXYZ019-_ é\x00密")
        for changed in (key[:place] + letter + key[place + 1 :], key[:place] + key[place + 1 :], key[:place] + letter + key[place:]):
            assert changed == key or store.authenticate(changed) is None, changed


RUBBISH = ["", "_", "llmg_", "llmg__", "llmg_%_x", "' OR 1=1 --", "密钥", "\ud800", "x" * 10**6, None, 7, b"llmg_a_b", ["llmg_a_b"]]


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_rubbish_is_no_key(store, rubbish):
    """And raises nothing."""
    assert store.authenticate(rubbish) is None


def test_neither_the_file_nor_a_log_nor_a_repr_has_the_secret(store, tmp_path, caplog):
    """Not in the database and its log file, not in SQLAlchemy's echo, not in representations or errors."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("sqlalchemy.engine").setLevel(logging.DEBUG)
    try:
        key = store.create("ann")
        store.authenticate(key)
        with pytest.raises(LookupError):
            store.revoke("0")
        shown = caplog.text + repr(key) + repr([key]) + repr(store) + repr(store.list()) + repr(store.authenticate(key)) + f"{store._known}"
    finally:
        logging.getLogger("sqlalchemy.engine").setLevel(logging.NOTSET)
    secret = key.split("_", 2)[2]
    assert key.id in shown and secret not in shown
    assert not any(secret.encode() in path.read_bytes() for path in tmp_path.iterdir())


def test_an_expired_key_ends_even_when_it_is_remembered(store):
    """The memory of a check doesn't outlive the key."""
    key = store.create("ann", days=0.3 / 86_400)
    assert store.authenticate(key) and store.fresh > 0.3
    time.sleep(0.35)
    assert store.authenticate(key) is None


def test_a_revoked_key_stops_within_the_stated_second(store):
    """At once where it was revoked; elsewhere after `fresh` seconds at most."""
    other, key = KeyStore(store.engine, fresh=0.2), store.create("ann")
    assert store.authenticate(key) and other.authenticate(key)
    store.revoke(key.id)
    assert store.authenticate(key) is None
    time.sleep(0.21)
    assert other.authenticate(key) is None
    store.revoke(key.id)  # a second time: no harm
    assert store.list()[0]["revoked"] <= time.time()


def test_only_its_own_hash_opens_a_row(store):
    """Two keys with their hashes exchanged open nothing."""
    keys = store.create("ann"), store.create("ben", ["admin"])
    with store.engine.begin() as database:
        swapped = {row["id"]: row["hash"] for row in database.execute(api_keys.select()).mappings()}
        for key, other in (keys, keys[::-1]):
            database.execute(update(api_keys).where(api_keys.c.id == key.id).values(hash=swapped[other.id]))
    assert [store.authenticate(key) for key in keys] == [None, None]


def test_names_that_would_mix_up_who_reads_what(store):
    """A user isn't called like a group, nobody like the public, and a name is a name."""
    store.create("ann", groups=["finance"])
    mixed = ("finance", ()), ("ben", ["ann"]), ("eva", ["eva"]), ("everyone", ()), ("eva", ["everyone"])
    for user, groups in (*mixed, ("", ()), (" ann", ()), ("a\nb", ()), ("x" * 201, ())):
        with pytest.raises(ValueError):
            store.create(user, groups=groups)
    with pytest.raises(TypeError):
        store.create("eva", groups="finance")
    assert len(store.list()) == 1


def test_what_roles_allow():
    """The table, in words; an unknown role is nothing, an unknown action an error."""
    may = {role: {action for action in ACTIONS if allows(Principal("x", [role]), action)} for role in [*ROLES, "king"]}
    assert may["king"] == set() and may["reader"] == {"ask"} and may["admin"] == ACTIONS
    assert "manage_keys" not in may["editor"] | may["agent"] and "edit_documents" not in may["agent"]
    with pytest.raises(ValueError):
        allows(Principal("x", ["admin"]), "manage_key")


def test_last_use_is_noted_and_many_threads_may_ask(store):
    """Sixteen threads with two keys: each gets its own principal."""
    keys = {name: store.create(name) for name in ("ann", "ben")}
    assert store.list()[0]["last_used"] is None
    wrong = []

    def ask(name):
        for _ in range(50):
            if store.authenticate(keys[name]).user != name:
                wrong.append(name)
            store._known.clear()

    threads = [threading.Thread(target=ask, args=(name,)) for name in ["ann", "ben"] * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and all(row["last_used"] for row in store.list())


@pytest.mark.soak
@pytest.mark.skipif(not os.environ.get("LLMGUIDE_SOAK"), reason="a PostgreSQL of its own takes seconds: make soak")
def test_on_postgresql(postgres):
    """The same table by another address."""
    engine = open_database(postgres.replace("postgresql://", "postgresql+psycopg://"))
    store = KeyStore(engine)
    key = store.create("ann", ["admin"], ["财务"])
    assert store.authenticate(key).readers == {"ann", "财务"}
    store.revoke(key.id)
    assert store.authenticate(key) is None
    engine.dispose()


def test_what_was_there_before_the_first_key_is_inherited_by_nobody_but_an_administrator(store):
    """Documents and conversations of an open service belong to `local`: no reader and no group may be called that."""
    for user, roles, groups in (("local", ["reader"], []), ("local", ["editor", "agent"], []), ("ann", ["admin"], ["local"])):
        with pytest.raises(ValueError, match="only an administrator"): store.create(user, roles, groups)
    assert store.authenticate(store.create("local", ["admin"])).user == "local"
